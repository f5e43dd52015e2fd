"""float16 and bfloat16: the forward's error, and decisions that the exact model confirms."""

import copy

import pytest
import torch

import dpad
from dpad.models.adapter import find_adapter
from tests.generation.common import MASK_ID, pad

pytestmark = pytest.mark.once

PROMPTS = [list(range(20, 31)), list(range(60, 65))]


@pytest.fixture
def exact(model):
    """The float32 model."""
    return model


@pytest.fixture(params=(torch.bfloat16, torch.float16), ids=("bfloat16", "float16"))
def half(request, exact):
    return copy.deepcopy(exact).to(request.param)


@torch.no_grad()
def logits(model, ids, mask=None):
    return model(ids, attention_mask=mask).logits.float()


@pytest.mark.parametrize("side", (None, "left", "right"))
def test_forward_is_as_near_to_float32_as_the_stock_one(exact, half, side):
    ids, mask = pad(PROMPTS, side or "left")
    seen = mask.bool()
    mask = mask if side else None
    want = logits(exact, ids, mask)[seen]
    error = (logits(half, ids, mask)[seen] - want).abs().max()
    with dpad.patch(half):
        got = half(ids, attention_mask=mask).logits
        assert got.dtype == half.dtype
        ours = (logits(half, ids, mask)[seen] - want).abs().max()
    assert 0 < ours <= 2 * error


@pytest.mark.parametrize("cache", ("none", "dual"))
def test_every_commit_is_the_exact_model_s_up_to_rounding(exact, half, cache):
    """Replays the commits on the float32 stock forward: each is its best token, or next to it."""
    shift = find_adapter(exact).shift
    options = {"max_new_tokens": 12, "block_length": 12, "threshold": 0.5, "cache": cache}
    with dpad.patch(half):
        out = half.generate([PROMPTS[0]], suffix=dpad.Suffix("all"), trace=True, **options)
    canvas = torch.tensor([PROMPTS[0] + [MASK_ID] * 12])
    error = (logits(half, canvas) - logits(exact, canvas)).abs().max()
    count = 0
    for number, event in enumerate(out.trace.events):
        found = logits(exact, canvas)[0]
        found[:, MASK_ID] = -torch.inf
        for position, token in zip(event["positions"], event["tokens"], strict=True):
            row = found[position - shift]
            # A cached step sees keys of the refresh: only the first is the whole canvas's.
            if cache == "none" or number == 0:
                assert row[token] >= row.max() - 4 * error
                count += int(row.argmax() == token)
            canvas[0, position] = token
    assert count >= (9 if cache == "none" else 1)


def test_decoding_repeats_itself_in_any_batch(half):
    options = {"max_new_tokens": 20, "block_length": 8, "threshold": 0.5, "batch_invariant": True}
    ids, mask = pad(PROMPTS, "left")
    with dpad.patch(half):
        both = half.generate(ids, attention_mask=mask, **options)
        again = half.generate(ids, attention_mask=mask, **options)
        alone = [
            half.generate([p], row_keys=[row], **options)[0, len(p) :]
            for row, p in enumerate(PROMPTS)
        ]
    assert both.equal(again)
    assert all(a.equal(b) for a, b in zip(both[:, ids.shape[1] :], alone, strict=True))
    assert MASK_ID not in both


def test_the_dtype_may_change_under_the_patch(exact, half):
    """`model.to` after patching: the next call decodes in the new dtype."""
    options = {"max_new_tokens": 12, "block_length": 12, "cache": "prefix"}
    want = dpad.generate(half, PROMPTS[:1], **options)
    with dpad.patch(exact) as handle:
        first = exact.generate(PROMPTS[:1], **options)
        exact.to(half.dtype)
        assert handle.adapter.dtype == half.dtype
        assert exact.generate(PROMPTS[:1], **options).equal(want)
        assert first.shape == want.shape


def test_gradients_in_half_precision_are_the_stock_ones(half):
    ids = torch.tensor(PROMPTS[:1])

    def gradients():
        half.zero_grad()
        half(ids).logits.float().logsumexp(-1).sum().backward()
        return [p.grad.clone() for p in half.parameters()]

    want = gradients()
    with dpad.patch(half):
        got = gradients()
    assert all(a.equal(b) for a, b in zip(got, want, strict=True))


def test_autocast_runs_the_stock_forward_and_generates_as_without(exact):
    ids, _ = pad(PROMPTS[:1], "left")
    options = {"max_new_tokens": 8, "block_length": 4, "seed": 0}
    plain = dpad.generate(exact, ids, **options)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        want = exact(ids).logits
        with dpad.patched(exact):
            assert torch.equal(exact(ids).logits, want)
            assert torch.equal(exact.generate(ids, **options), plain)
