"""Quantised weights (torchao) under a patched model."""

import copy

import pytest
import torch

import dpad
from tests.ecosystem.common import FAST, PLAIN, own_forward
from tests.generation.common import assert_close, logits

pytest.importorskip("torchao", reason="torchao is not installed (requirements/ecosystem.txt)")
from torchao.quantization import Int8WeightOnlyConfig, quantize_


def quantized(model):
    return quantize_(model, Int8WeightOnlyConfig()) or model


def is_quantized(weight):
    return type(weight.data) is not torch.Tensor


@pytest.fixture(params=(torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
def dtype(request):
    return request.param


def test_linears_are_quantized_and_nothing_else(model):
    quantized(model)
    kinds = {
        type(module).__name__: is_quantized(module.weight)
        for module in model.modules()
        if getattr(module, "weight", None) is not None
    }
    assert kinds.pop("Linear")
    assert len(kinds) == 2 and not any(kinds.values())


@pytest.mark.parametrize("order", ("quantized first", "patched first"))
def test_generate_decides_as_the_quantized_stock_forward(model, ids, order):
    exact = dpad.generate(model, ids, **PLAIN)
    if order == "patched first":
        handle = dpad.patch(model)
        assert model.generate(ids, **PLAIN).equal(exact)
        quantized(model)
    else:
        handle = dpad.patch(quantized(model))
    got = model.generate(ids, **PLAIN)
    fast = model.generate(ids, **FAST)
    assert not got.equal(exact)
    handle.remove()
    assert got.equal(own_forward(model, ids))
    assert fast.equal(dpad.generate(model, ids, **FAST))


def test_forward_is_that_of_the_quantized_stock_one(model, ids, dtype):
    exact = logits(model, ids)
    quantized(model.to(dtype))
    want = logits(model, ids)
    with dpad.patch(model):
        got = logits(model, ids)
    if dtype == torch.float32:
        assert_close(got, want)
    else:
        assert (got.float() - exact).abs().max() <= 2 * (want.float() - exact).abs().max()
    assert logits(model, ids).equal(want)


def test_half_precision_weights_decode(model, ids):
    model = quantized(model.bfloat16())
    with dpad.patch(model) as handle:
        assert handle.adapter.dtype == torch.bfloat16
        assert model.generate(ids, **FAST).equal(dpad.generate(copy.deepcopy(model), ids, **FAST))


def test_a_copy_of_a_quantized_patched_model(model, ids):
    handle = dpad.patch(quantized(model))
    want = model.generate(ids, **FAST)
    clone = copy.deepcopy(model)
    handle.remove()
    assert clone._dpad_handle is not handle
    assert is_quantized(next(m for m in clone.modules() if type(m) is torch.nn.Linear).weight)
    assert clone.generate(ids, **FAST).equal(want)
