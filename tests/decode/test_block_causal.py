"""Attention by blocks: the plain forward answers with it, unknown kinds are refused."""

import pytest
import torch

import dpad
from dpad.models.adapter import UnsupportedModelError, find_adapter
from tests.decode.common import EOS_ID, tiny
from tests.generation.common import assert_close, logits, pad


def by_blocks(length, block):
    """bool ``[1, 1, length, length]``: who looks at whom."""
    place = torch.arange(length) // block
    return (place[:, None] >= place)[None, None]


@pytest.fixture
def patched():
    """A function of a block length to a patched model of that attention, and the model itself."""

    def patch(block, dtype=torch.float32, **changes):
        model = tiny(**changes).to(dtype)  # first: another dtype is looked at anew
        handle = dpad.patch(model)
        handle.adapter.attention, handle.adapter.block_length = "block-causal", block
        return model

    return patch


@pytest.mark.parametrize("length", [1, 4, 11, 16])
@pytest.mark.parametrize("block", [1, 4, 16, 32])
def test_forward_is_the_masked_stock_one(patched, block, length):
    ids = torch.randint(0, 50, (3, length), generator=torch.Generator().manual_seed(length))
    found = logits(patched(block), ids)
    assert_close(found, logits(tiny(), ids, attention_bias=by_blocks(length, block)))
    if length > block:
        assert (found - logits(tiny(), ids)).abs().max() > 0.1


def test_later_blocks_change_nothing(patched):
    model, ids = patched(4), torch.randint(0, 50, (2, 12))
    changed = torch.cat((ids[:, :8], torch.randint(0, 50, (2, 4))), dim=1)
    assert logits(model, ids)[:, :8].equal(logits(model, changed)[:, :8])
    assert not logits(model, ids)[:, 8:].equal(logits(model, changed)[:, 8:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_hidden_too(patched, side):
    ids, mask = pad([list(range(20, 31)), [30, 31, 32, 33]], side, EOS_ID)
    bias = by_blocks(ids.shape[1], 4) & mask.bool()[:, None, None, :]
    wanted = logits(tiny(), ids, attention_bias=bias)
    found = logits(patched(4), ids, attention_mask=mask)
    assert_close(found[mask.bool()], wanted[mask.bool()])


def test_half_precision(patched):
    model = patched(4, torch.bfloat16, heads=4, kv_heads=1)
    ids = torch.randint(0, 50, (2, 11))
    wanted = tiny(heads=4, kv_heads=1).to(torch.bfloat16)
    wanted = logits(wanted, ids, attention_bias=by_blocks(11, 4))
    assert (logits(model, ids) - wanted).abs().max() <= 3e-2 * wanted.abs().max()


def test_compiled(patched):
    model, ids = patched(4), torch.randint(0, 50, (2, 9))
    wanted = logits(model, ids)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(logits(compiled, ids), wanted)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "kind, block, words",
    [
        ("causal", None, "attention = 'causal'"),
        ("block-causal", None, "block_length = None"),
        ("block-causal", 0, "block_length = 0"),
    ],
)
def test_unknown_kinds_are_refused(monkeypatch, kind, block, words):
    from dpad.models import llada

    adapt = llada.adapt

    def other(model):
        view = adapt(model)
        view.attention, view.block_length = kind, block
        return view

    monkeypatch.setattr(llada, "adapt", other)
    with pytest.raises(UnsupportedModelError, match=words):
        find_adapter(tiny())
    assert not dpad.supports(tiny())
