"""Which models are taken, and what is said of those that are not."""

import pytest
import torch
from torch import nn

import dpad
from dpad.models.adapter import UnsupportedModelError, find_adapter
from tests.decode.common import EOS_ID, MASK_ID, tiny


def test_what_a_decoder_knows():
    view = find_adapter(tiny())
    assert (view.family, view.num_heads, view.num_kv_heads, view.head_dim) == ("llada", 4, 2, 8)
    assert (view.shift, view.mask_id, view.end_ids, view.max_positions) == (
        0,
        MASK_ID,
        (EOS_ID,),
        256,
    )
    cos, sin = view.rope(9)
    assert cos.shape[0] >= 9 and cos.shape[1] == sin.shape[1] == 4
    assert (cos[0] == 1).all() and (sin[0] == 0).all()


def test_wrappers_are_looked_through():
    model = tiny()
    assert find_adapter(nn.DataParallel(model)).model is model
    assert find_adapter(torch.compile(model)).model is model


@pytest.mark.parametrize(
    "break_it, words",
    [
        (lambda m: m.double(), ["float64"]),
        (lambda m: m.model.transformer.ln_f.bfloat16(), ["norm", "bfloat16", "float32"]),
        (lambda m: m.model.transformer.ff_out.to("meta"), ["meta"]),
        (lambda m: delattr(m.model.transformer.blocks[1], "up_proj"), ["up_proj"]),
        (lambda m: setattr(m.model.config, "alibi", True), ["alibi"]),
        (lambda m: setattr(m.model.config, "block_group_size", 2), ["block_group_size"]),
        (lambda m: setattr(m.model.config, "layer_norm_type", "low_precision"), ["low_precision"]),
    ],
)
def test_what_does_not_fit_is_named(break_it, words):
    model = tiny()
    break_it(model)
    assert not dpad.supports(model)
    with pytest.raises(UnsupportedModelError) as error:
        dpad.patch(model)
    for word in words:
        assert word in str(error.value)
    assert "_dpad_handle" not in model.__dict__


def test_unknown_classes():
    with pytest.raises(UnsupportedModelError, match="LLaDAModelLM"):
        dpad.patch(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="str"):
        dpad.patch("model")
    assert not dpad.supports(nn.Linear(2, 2))
    assert "LLaDAModelLM" in repr(dpad.supports(nn.Linear(2, 2)))
    assert dpad.supports(tiny()) and dpad.supports(tiny()).family == "llada"
