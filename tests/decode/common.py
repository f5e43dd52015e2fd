"""A tiny random LLaDA for the decoding tests."""

import torch

from dpad.decode import commit
from dpad.decode.lane import Hooks, Sampling
from dpad.decode.sequence import Sequence
from dpad.decode.suffix import Suffix
from dpad.models.adapter import find_adapter
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

MASK_ID, EOS_ID, VOCAB = 60, 59, 67


def tiny(heads=4, kv_heads=2, layers=2, **changes):
    """A float32 model in eval mode with separated confidences."""
    torch.manual_seed(0)
    fields = {
        "d_model": 32,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "n_layers": layers,
        "mlp_hidden_size": 48,
        "vocab_size": VOCAB,
        "embedding_size": VOCAB,
        "max_sequence_length": 256,
        "mask_token_id": MASK_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        **changes,
    }
    model = LLaDAModelLM(LLaDAConfig(**fields)).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, weight.shape[1] ** -0.5)
        model.model.transformer.ff_out.weight.mul_(4)
    return model


def adapter(device="cpu", **changes):
    return find_adapter(tiny(**changes).to(device))


def sequence(prompt, new, block_length=8, **options):
    """A `Sequence` of a prompt and `new` masks; `options` of it and of its `Sampling`."""
    fields = set(Sampling.__dataclass_fields__) & set(options)
    sampling = {"suppress": (MASK_ID,), **{n: options.pop(n) for n in fields}}
    fixed = {"sampling": Sampling(**sampling)}
    fixed |= {"mask_id": MASK_ID, "end_ids": (EOS_ID,), "fill_id": EOS_ID}
    fixed |= {"rule": commit.threshold(0.5), "suffix": Suffix("all")}
    prompt = torch.as_tensor(prompt, dtype=torch.int64)
    tokens = torch.cat((prompt, torch.full((new,), MASK_ID)))
    return Sequence(tokens, len(prompt), block_length, **{**fixed, **options})


def sequences(prompts, new, block_length=8, keys=None, **options):
    """One `sequence` for each prompt, of one call: they share their hooks."""
    fields = set(Hooks.__dataclass_fields__) & set(options)
    hooks = Hooks(**{n: options.pop(n) for n in fields})
    keys = keys or range(len(prompts))
    return [
        sequence(p, new, block_length, number=number, row_key=key, hooks=hooks, **options)
        for number, (p, key) in enumerate(zip(prompts, keys, strict=True))
    ]
