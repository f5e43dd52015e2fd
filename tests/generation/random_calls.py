"""Random calls of `generate` on tiny models of every kind."""

import dpad
from dpad.decode.ancestral import KINDS as REMASKS
from dpad.decode.rules import KINDS
from dpad.models.hf.dream import DreamConfig, DreamModel
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from tests.decode.common import EOS_ID, MASK_ID, VOCAB, tiny
from tests.doubles import remote
from tests.generation.common import META, pad
from tests.models.common import spread_out

LLADA = {"d_model": 32, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "mlp_hidden_size": 48}
IDS = {"vocab_size": VOCAB, "mask_token_id": MASK_ID, "eos_token_id": EOS_ID}
IDS["pad_token_id"] = EOS_ID
DREAM = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "rope_theta": 1e4}
DREAM |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
CACHES = ("prefix", "dual", "dual", "none")
REMEMBER = ("klass", "credit")


def llada_double():
    config = {**META["config"], **LLADA, **IDS, "embedding_size": VOCAB}
    return spread_out(remote.llada_model(config))


def tied():
    config = LLaDAConfig(**LLADA, **IDS, embedding_size=VOCAB, weight_tying=True, scale_logits=True)
    return spread_out(LLaDAModelLM(config).float().eval())


def dream(**changes):
    return spread_out(DreamModel(DreamConfig(**{**DREAM, **IDS, **changes})).float().eval())


MODELS = (
    tiny,
    lambda: tiny(kv_heads=4),
    lambda: tiny(heads=2, kv_heads=1, layers=1),
    tied,
    llada_double,
    dream,
)


def batch(draw, shift):
    """Prompts of up to nine rows; a model with a `shift` needs a token to predict from."""
    rows = draw.choice((1, 1, 2, 3, 4, 5, 7, 8, 9))
    longest = 0 if draw.random() < 0.1 and not shift else 14
    lengths = [draw.randint(min(1, longest), longest) for _ in range(rows)]
    prompts = [[draw.randrange(EOS_ID) for _ in range(n)] for n in lengths]
    ids, mask = pad(prompts, draw.choice(("left", "right")))
    return {"input_ids": ids, "attention_mask": mask}


def rule(draw, new, block):
    """Options of a commit rule."""
    blocks = -(-new // block)
    steps = draw.randint(blocks, 2 * new)
    kinds = (
        {"confidence_threshold": draw.choice((0.2, 0.5, 0.9))},
        {"factor": draw.choice((0.5, 1.0, 2.0))},
        {"entropy_bound": draw.choice((0.5, 3.0))},
        {"steps": steps, "alg": draw.choice(("maskgit_plus", "topk_margin", "entropy"))},
        {"steps": steps, "alg_temp": 0.4},
        {"steps": steps, "alg": "origin"},
        {"steps": steps, "remasking": "random"},
        {"commit": draw.choice(sorted(KINDS))},
        {"remask": draw.choice(REMASKS), "steps": steps, "temperature": 1.0},
        {"alg": "first_hitting", "temperature": 1.0},
    )
    return draw.choice(kinds)


def suffix(draw):
    kind = draw.choice(("none", "all", "gaussian", "uniform", "window"))
    options = {} if kind in ("none", "all") else {"window": draw.choice((4, 16))}
    if kind == "gaussian":
        options |= {"decay": 3.0, "density": draw.choice((0.2, 0.6))}
    if kind == "uniform":
        options["count"] = 3
    return dpad.Suffix(kind, near=draw.choice((0, 2)), keep_last=draw.random() < 0.3, **options)


def options(draw, rows, shift):
    new, block = draw.randint(5, 30), draw.choice((4, 5, 8, 16))
    chosen = {"max_new_tokens": new, "block_length": min(block, new), "suffix": suffix(draw)}
    chosen |= rule(draw, new, min(block, new))
    drawn = "remask" in chosen or chosen.get("alg") == "first_hitting"
    if draw.random() < 0.15 and "commit" not in chosen and not drawn:
        chosen["compatible"] = "fast-dllm-dream" if shift else "fast-dllm-llada"
    elif draw.random() < 0.1 and "remask" not in chosen and chosen.get("commit") not in REMEMBER:
        chosen["refine"] = draw.choice((0.2, 0.6))
    if draw.random() < 0.1 and not drawn:  # masks of a block are a multiple of its steps
        chosen |= {"max_new_tokens": 24, "block_length": 8, "steps": draw.choice((6, 12))}
        chosen |= {"alg": "confidence_threshold", "confidence_threshold": 0.7}
        for name in ("alg_temp", "remasking", "factor", "entropy_bound", "commit"):
            chosen.pop(name, None)
    chosen |= {"cache": draw.choice(CACHES), "seed": draw.randrange(99), "trace": True}
    if draw.random() < 0.4 and chosen["cache"] != "none":
        chosen |= {"refresh": "recent", "refresh_period": draw.choice((None, None, 2))}
    chosen["early_stop"] = draw.random() < 0.6
    if draw.random() < 0.3:
        chosen["temperature"] = draw.choice((0.3, 1.0))
        chosen |= draw.choice(({}, {"top_p": 0.8}, {"top_k": 7}, {"top_p": 0.9, "top_k": 9}))
    if draw.random() < 0.25:
        chosen["cfg_scale"] = 0.7
    if draw.random() < 0.2:
        chosen["micro_batch"] = draw.randint(1, rows)
    if draw.random() < 0.1 and rows < 5:
        chosen["num_return_sequences"] = 2
    for name in ("batch_invariant", "logits_eos_inf", "confidence_eos_eot_inf"):
        if draw.random() < 0.1:
            chosen[name] = True
    if draw.random() < 0.2 and not {"steps", "compatible", "refine"} & set(chosen):
        chosen["length"] = growth(draw, chosen["max_new_tokens"])
    return chosen


def growth(draw, new):
    return {
        "initial_length": draw.randint(1, new),
        "expansion": draw.choice((1, 3, 8)),
        "window": draw.choice((2, 6)),
        "end_confidence": draw.choice((0.0, 0.1, 0.5)),
        "low_confidence": draw.choice((0.1, 0.3, 0.6)),
    }


class Drafts:
    def __init__(self):
        self.seen = []

    def put(self, value):
        self.seen.append(value.tolist())

    def put_draft(self, value):
        self.seen.append(value.tolist())

    def end(self):
        self.seen.append("end")


class Look:
    """A step callback that records, and may put masks or tokens back, or raise."""

    def __init__(self, writes, breaks_at):
        self.seen, self.writes, self.breaks_at = [], writes, breaks_at

    def __call__(self, model, step, timestep, tensors):
        self.seen.append((step, timestep, {n: t.tolist() for n, t in tensors.items()}))
        if step == self.breaks_at:
            raise KeyError("broken")
        if self.writes and step % 3 == 1 and step < 30:
            block = tensors["block"].clone()
            column = step % block.shape[1]
            block[block[:, column] >= 0, column] = MASK_ID if step % 2 else 7
            return {"block": block}
        return None


def callers_code(draw, rows):
    """A function that makes arguments anew, for each of the two models."""
    kind = draw.random()
    if kind < 0.15 and rows == 1:
        return lambda: {"streamer": Drafts()}
    if kind < 0.35:
        writes, breaks_at = draw.random() < 0.5, draw.choice((None, None, 0, 3))
        names = draw.choice(("block", ("block", "transfer_index", "kept_suffix")))
        return lambda: {
            "callback_on_step_end": Look(writes, breaks_at),
            "callback_on_step_end_tensor_inputs": names,
            "callback_on_step_end_tensor_outputs": ("block",) if writes else None,
        }
    if kind < 0.45:
        last = draw.randrange(9)
        return lambda: {"stopping_criteria": [lambda ids, _: ids[:, -1] % 9 == last]}
    if kind < 0.5:
        return lambda: {"logits_processor": [lambda ids, scores: scores * 1.5]}
    return dict
