"""Dream's own call on a patched model: names, defaults, hooks, history."""

import types

import pytest
import torch

import dpad
from tests.generation.common import DREAM, pad
from tests.generation.test_samplers import MASK_ID, PROMPT, VOCAB

NEW, STEPS = 12, 6


def restated(model, ids, mask, steps, score, tokens_hook=None, logits_hook=None):
    """Dream's loop over padded rows, with its hooks; returns the canvas after each step."""
    x = torch.nn.functional.pad(ids, (0, NEW), value=MASK_ID)
    real = torch.nn.functional.pad(mask, (0, NEW), value=1).bool()
    positions = (real.long().cumsum(-1) - 1).clamp(min=0)
    pairs = real[:, None, :, None] & real[:, None, None, :]
    times = torch.linspace(1, 1e-3, steps + 1)
    if tokens_hook is not None:
        x = tokens_hook(None, x, None)
    history = []
    for i in range(steps):
        with torch.no_grad():
            logits = model(x, attention_mask=pairs, position_ids=positions).logits
        logits = torch.cat((logits[:, :1], logits[:, :-1]), 1)
        if logits_hook is not None:
            logits = logits_hook(i, x, logits)
        masked = x == MASK_ID
        quota = masked.sum() / x.shape[0]
        quota = int(quota) if i == steps - 1 else int(quota * (1 - times[i + 1] / times[i]))
        p, token = logits.softmax(-1), logits.argmax(-1)
        values = {
            "maskgit_plus": p.amax(-1),
            "entropy": (p * torch.log(p + 1e-10)).sum(-1),
        }[score].masked_fill(~masked, -torch.inf)
        for row in range(x.shape[0]):
            best = values[row].topk(min(quota, int(masked[row].sum()))).indices
            x[row, best] = token[row, best]
        if tokens_hook is not None:
            x = tokens_hook(i, x, logits)
        history.append(x.clone())
    return history


@pytest.fixture
def batch():
    return pad([PROMPT, PROMPT[:2], PROMPT[1:]], "left", 300)


def same(out, history):
    assert torch.equal(out.sequences, history[-1])
    assert len(out.history) == len(history)
    for found, wanted in zip(out.history, history, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("alg", ["maskgit_plus", "entropy"])
def test_padded_batch_with_history(dream, batch, alg):
    ids, mask = batch
    history = restated(dream, ids, mask, STEPS, alg)
    options = {"max_new_tokens": NEW, "steps": STEPS, "alg": alg, "output_history": True}
    options |= {"attention_mask": mask, "return_dict_in_generate": True}
    with dpad.patched(dream):
        same(dream.diffusion_generate(ids, **options), history)
        parts = dream.diffusion_generate(ids, micro_batch=2, **options)
    same(parts, history)


def test_hooks_see_and_change_what_dream_lets_them(dream, batch):
    """Logits of the whole canvas, shifted; tokens forced before the start and masked again."""
    ids, mask = batch
    columns = ids.shape[1]

    def tokens(step, x, logits):
        if step is None:
            assert logits is None
            x[:, columns + 3] = 7  # a constraint
            return x
        assert logits.shape == (*x.shape, VOCAB)
        if step == 2:
            x[1, columns : columns + 2] = MASK_ID  # this row has more masks than the others now
        return x

    def logits(step, x, logits):
        assert not x.is_inference() and not logits.is_inference()
        assert x.shape == ids.shape[:1] + (columns + NEW,)
        logits[..., 17] += 0.5 * step
        return logits

    seen = []

    def recorded(hook):
        def call(step, x, logits):
            seen.append(
                (hook.__name__, step, x.clone(), None if logits is None else logits.clone())
            )
            return hook(step, x, logits)

        return call

    history = restated(dream, ids, mask, STEPS, "entropy", recorded(tokens), recorded(logits))
    expected, seen = seen, []
    with dpad.patched(dream):
        out = dream.diffusion_generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            steps=STEPS,
            alg="entropy",
            output_history=True,
            return_dict_in_generate=True,
            generation_tokens_hook_func=recorded(tokens),
            generation_logits_hook_func=recorded(logits),
        )
    same(out, history)
    assert [s[:2] for s in seen] == [e[:2] for e in expected]
    real = torch.nn.functional.pad(mask, (0, NEW), value=1).bool()
    for (_, _, x, found), (_, _, y, wanted) in zip(seen, expected, strict=True):
        assert torch.equal(x, y)
        if found is not None:
            # Behind padding the shift of a padded row takes the row of a pad: it means nothing.
            valid = real & torch.nn.functional.pad(real, (1, 0), value=True)[:, :-1]
            assert torch.allclose(found[valid], wanted[valid], atol=2e-4, rtol=1e-4)


def test_hooks_run_every_step_even_without_masks(dream):
    steps = []

    def fill(step, x, logits):
        steps.append(step)
        return torch.where(x == MASK_ID, 9, x)

    with dpad.patched(dream):
        out = dream.diffusion_generate(
            torch.tensor([PROMPT]), max_new_tokens=NEW, steps=5, generation_tokens_hook_func=fill
        )
    assert steps == [None, 0, 1, 2, 3, 4]
    assert (out[0, len(PROMPT) :] == 9).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache": "dual"}, "cache = 'dual'"),
        ({"suffix": dpad.Suffix("gaussian")}, "suffix"),
        ({"micro_batch": 1}, "micro_batch = 1"),
        ({"batch_invariant": True}, "batch_invariant = True"),
        ({"cfg_scale": 1.0}, "cfg_scale = 1.0"),
    ],
)
def test_hooks_are_refused_where_they_cannot_see_everything(dream, options, words):
    ids = torch.tensor([PROMPT, PROMPT])
    with dpad.patched(dream), pytest.raises(ValueError) as error:
        dream.diffusion_generate(
            ids, generation_logits_hook_func=lambda step, x, logits: logits, **options
        )
    assert "generation_logits_hook_func" in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ({"generation_tokens_hook_func": lambda step, x, logits: x[:, :-1]}, "tokens_hook_func"),
        ({"generation_tokens_hook_func": lambda step, x, logits: None}, "NoneType"),
        ({"generation_tokens_hook_func": lambda s, x, _: torch.full_like(x, MASK_ID)}, "prompt"),
        ({"generation_logits_hook_func": lambda step, x, logits: logits[:, 1:]}, "logits_hook"),
    ],
)
def test_what_a_hook_returns_is_checked(dream, hooks, words):
    with dpad.patched(dream):
        before = dream.diffusion_generate(torch.tensor([PROMPT]), seed=0)
        with pytest.raises(ValueError, match=words):
            dream.diffusion_generate(torch.tensor([PROMPT]), **hooks)
        assert torch.equal(dream.diffusion_generate(torch.tensor([PROMPT]), seed=0), before)
    with dpad.patched(dream), pytest.raises(TypeError, match="not callable"):
        dream.diffusion_generate(torch.tensor([PROMPT]), generation_tokens_hook_func=3)


@pytest.mark.slow(reason="the default is 512 steps")
def test_class_defaults(dream):
    """20 new tokens, origin, temperature 0, 512 steps; a maximum length counts the prompt."""
    ids = torch.tensor([PROMPT])
    with dpad.patched(dream):
        out = dream.diffusion_generate(ids, return_dict_in_generate=True, seed=3)
        assert out.sequences.shape[1] == len(PROMPT) + 20 and int(out.forwards) <= 512
        assert torch.equal(
            out.sequences, dream.diffusion_generate(ids, alg="origin", steps=512, seed=3)
        )
        assert dream.diffusion_generate(ids, max_length=9).shape[1] == 9
        with pytest.raises(ValueError, match="max_length = 5"):
            dream.diffusion_generate(ids, max_length=5)
        warm = dream.diffusion_generate(ids, compatible="dream-transformers-4", seed=3)
        chosen = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "seed": 3}
        assert torch.equal(warm, dream.diffusion_generate(ids, **chosen))


def test_configuration_object_of_the_model(dream):
    """Attributes are read from whatever object the remote code brings; calls override them."""
    fields = {"max_length": 20, "max_new_tokens": 8, "steps": 4, "alg": "entropy", "top_p": None}
    fields |= {"temperature": 0.0, "mask_token_id": MASK_ID, "output_history": True}
    given = types.SimpleNamespace(**fields, return_dict_in_generate=True, num_return_sequences=2)
    ids = torch.tensor([PROMPT])
    with dpad.patched(dream):
        out = dream.diffusion_generate(ids, given)
        assert out.sequences.shape == (2, len(PROMPT) + 8) and len(out.history) == 4
        assert torch.equal(out.sequences[0], out.sequences[1])
        plain = dream.diffusion_generate(ids, given, steps=8, return_dict_in_generate=False)
        assert plain.shape == (2, len(PROMPT) + 8)
        own = dpad.DPadGenerationConfig(max_new_tokens=8, steps=4, alg="entropy")
        assert torch.equal(dream.diffusion_generate(ids, own)[0], out.sequences[0])


def test_fast_dllm_names(dream):
    """A block length selects the decoder in blocks, with a cache unless it is refused."""
    ids = torch.tensor([PROMPT])
    options = {"max_new_tokens": 16, "block_length": 8, "alg": "confidence_threshold"}
    options |= {"threshold": 0.5, "steps": 512}
    caches = (("prefix", {}), ("dual", {"dual_cache": True}), ("none", {"use_cache": False}))
    with dpad.patched(dream):
        for cache, names in caches:
            found = dream.diffusion_generate(ids, **options, **names)
            same = {"max_new_tokens": 16, "block_length": 8, "threshold": 0.5, "cache": cache}
            same |= {"suffix": dpad.Suffix("all"), "compatible": "fast-dllm-dream"}
            assert torch.equal(found, dream.generate(ids, **same))


def test_unknown_names_and_undo(dream):
    with dpad.patched(dream), pytest.raises(TypeError, match="num_beams"):
        dream.diffusion_generate(torch.tensor([PROMPT]), num_beams=2)
    assert "diffusion_generate" not in dream.__dict__
    assert DREAM["mask_id"] == MASK_ID


def test_num_return_sequences_draws_different_rows(dream):
    options = {"max_new_tokens": NEW, "temperature": 1.5, "num_return_sequences": 3, "steps": 4}
    out = dpad.generate(dream, torch.tensor([PROMPT, PROMPT[::-1]]), seed=1, **options)
    assert out.shape == (6, len(PROMPT) + NEW)
    assert len({tuple(row) for row in out[:3].tolist()}) == 3
    assert out[:3, : len(PROMPT)].tolist() == [PROMPT] * 3
