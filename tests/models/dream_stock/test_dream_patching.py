"""`dpad.patch` on a double of Dream's released remote code: rotary buffers, undoing, copies."""

import copy
import io

import pytest
import torch

import dpad
from dpad.models.adapter import UnsupportedModelError
from tests.doubles import dream_stock
from tests.generation.common import assert_close, logits

# --- rotary buffers ------------------------------------------------------------------------------


def spoil(model, value):
    """Rotary buffers as Transformers 5.x leaves them: at the top and in every layer."""
    for module in model.modules():
        if isinstance(module, dream_stock.DreamRotaryEmbedding):
            module.inv_freq = torch.full_like(module.inv_freq, value)


@pytest.mark.parametrize("value", (7.0, 0.0, float("nan")))
def test_garbage_in_rotary_buffers_is_reported_and_survived(stock, ids, value):
    want = logits(stock, ids)
    tokens = dpad.generate(stock, ids, max_new_tokens=8, block_length=8)
    spoil(stock, value)
    assert not torch.allclose(logits(stock, ids), want, atol=0.1)
    assert dpad.supports(stock)
    handle = dpad.patch(stock)
    (note,) = handle.notes
    assert "uninitialised" in note and "model.reset_rope_parameters() repairs it" in note
    assert note in repr(handle)
    assert_close(logits(stock, ids), want)
    assert stock.generate(ids, max_new_tokens=8, block_length=8).equal(tokens)
    handle.remove()
    stock.reset_rope_parameters()
    assert logits(stock, ids).equal(want)
    assert not dpad.patch(stock).notes


def test_rotary_buffers_rounded_with_the_weights_are_reported(stock):
    assert not dpad.patch(copy.deepcopy(stock)).notes
    (note,) = dpad.patch(stock.bfloat16()).notes
    assert "rounded to half precision" in note and "reset_rope_parameters" in note
    stock._dpad_handle.remove()
    stock.reset_rope_parameters()
    assert not dpad.patch(stock).notes


def test_rotary_buffers_without_memory_are_reported(stock, ids):
    want = logits(stock, ids)
    for module in stock.modules():
        if isinstance(module, dream_stock.DreamRotaryEmbedding):
            module.inv_freq = module.inv_freq.to("meta")
    with dpad.patch(stock) as handle:
        assert "meta" in handle.notes[0]
        assert_close(logits(stock, ids), want)


def test_a_configuration_that_is_not_the_default_rope_is_refused(stock):
    stock.config.rope_scaling = {"rope_type": "yarn", "factor": 4.0}
    with pytest.raises(UnsupportedModelError, match="rope_scaling"):
        dpad.patch(stock)


# --- patching, copies ----------------------------------------------------------------------------


def test_remove_leaves_no_trace(stock, ids):
    before, want = dict(vars(stock)), logits(stock, ids)
    other = copy.deepcopy(stock)
    handle = dpad.patch(stock)
    stock.generate([[1, 2, 3]], max_new_tokens=8, block_length=8)
    assert type(stock) is dream_stock.DreamModel and "_dpad_handle" not in vars(other)
    handle.remove()
    assert dict(vars(stock)) == before
    assert logits(stock, ids).equal(want)


@pytest.mark.parametrize("way", ("deepcopy", "pickle"))
def test_copies_are_patched_models_of_their_own(stock, way):
    handle = dpad.patch(stock)
    want = stock.generate([[1, 2, 3]], max_new_tokens=8, block_length=8)
    if way == "deepcopy":
        clone = copy.deepcopy(stock)
    else:
        # The frequencies' function is looked up again where the pickle is read.
        buffer = io.BytesIO()
        torch.save(stock, buffer)
        buffer.seek(0)
        clone = torch.load(buffer, weights_only=False)
    handle.remove()
    assert clone._dpad_handle.model is clone and clone._dpad_handle.active
    with torch.no_grad():
        stock.lm_head.weight.zero_()
    assert clone.generate([[1, 2, 3]], max_new_tokens=8, block_length=8).equal(want)
