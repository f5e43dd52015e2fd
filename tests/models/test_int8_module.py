"""Int8Linear: what it computes and holds, and that nothing of it gets lost on its ways."""

import copy
import io

import pytest
import torch
from torch import nn

from dpad import ops
from dpad.models import linear_layers
from dpad.models.int8_linear import Int8Linear, quantize_weight


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(70, 40).eval()


@torch.no_grad()
def run(layer, rows=9, dtype=torch.float32):
    return layer(torch.randn(rows, 70, generator=torch.Generator().manual_seed(1)).to(dtype))


def test_weights_are_the_nearest_numbers(linear):
    weight, scale = quantize_weight(linear.weight.detach())
    assert weight.dtype == torch.int8 and weight.min() >= -127
    assert weight.abs().amax(1).eq(127).all()
    assert torch.equal(scale, linear.weight.detach().abs().amax(1) / 127)
    error = (weight * scale[:, None] - linear.weight).abs()
    assert (error <= scale[:, None] * 0.5001).all()


def test_a_row_of_zeros_and_no_columns():
    weight, scale = quantize_weight(torch.zeros(3, 5))
    assert not weight.any() and not scale.any()
    weight, scale = quantize_weight(torch.zeros(3, 0))
    assert weight.shape == (3, 0) and scale.tolist() == [0, 0, 0]


def test_rows_are_widened_in_pieces(linear, monkeypatch):
    whole = quantize_weight(linear.weight.detach())
    monkeypatch.setattr("dpad.models.int8_linear.PIECE", 150)
    for a, b in zip(whole, quantize_weight(linear.weight.detach()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(linear, value):
    linear.weight.data[39, 69] = value
    with pytest.raises(ValueError, match="not finite"):
        quantize_weight(linear.weight.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_it_stands_in_for_the_linear(linear, dtype, bias):
    linear.bias = linear.bias if bias else None
    exact = run(linear)
    linear.to(dtype)
    layer = Int8Linear.of(linear)
    out = run(layer, dtype=dtype)
    assert out.dtype == dtype and layer.bias is linear.bias
    assert (out.float() - exact).norm() < 0.02 * exact.norm()
    x = torch.randn(2, 3, 70).to(dtype)
    with torch.no_grad():
        assert layer(x).shape == (2, 3, 40)
        assert torch.equal(layer(x)[1], layer(x[1]))
        assert layer(x[:0]).shape == (0, 3, 40)


def test_smoothing_takes_the_outliers_out(linear):
    x = torch.randn(50, 70)
    x[:, 7] *= 100
    with torch.no_grad():
        exact = linear(x)
        factors = torch.ones(70)
        factors[7] = 0.02
        plain, smooth = Int8Linear.of(linear), Int8Linear.of(linear, factors)
        errors = [(layer(x) - exact).norm() / exact.norm() for layer in (plain, smooth)]
    assert errors[1] < errors[0] / 2


def test_state_dict_and_copies(linear):
    for layer in (Int8Linear.of(linear), Int8Linear.of(linear, torch.rand(70) + 0.5)):
        state = layer.state_dict()
        smooth = ["smoothing"] if layer.smoothing is not None else []
        assert list(state) == ["bias", "weight", "scale", *smooth]
        again = Int8Linear(70, 40, bias=True, smoothing=bool(smooth))
        again.load_state_dict(state)
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        for other in (again, copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
            assert torch.equal(run(other), run(layer))


def test_scales_stay_float32(linear):
    layer = Int8Linear.of(linear, torch.rand(70) + 0.5)
    scale, smoothing = layer.scale.clone(), layer.smoothing.clone()
    for convert in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double()):
        convert(layer)
        assert torch.equal(layer.scale, scale) and torch.equal(layer.smoothing, smoothing)
        assert layer.weight.dtype == torch.int8
    layer.bfloat16()
    assert run(layer, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert layer.to("meta").scale.device.type == "meta"


def test_gradients_are_refused(linear):
    layer = Int8Linear.of(linear)
    with pytest.raises(RuntimeError, match="int8_linear is for inference only"):
        layer(torch.randn(2, 70, requires_grad=True))


def test_under_compile(linear):
    layer = Int8Linear.of(linear)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for rows in (3, 9, 1):
        assert torch.equal(run(compiled, rows), run(layer, rows))


def test_it_is_called_and_reported(linear):
    layer = Int8Linear.of(linear)
    assert not linear_layers.is_plain(layer)
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        linear_layers.call(layer, torch.randn(4, 70))
    assert calls == [1]
    words = linear_layers.where([layer, layer, linear])
    by = "avx512vnni" if "avx512vnni" in ops.cpu_extensions() else ops.cpu_isa()
    assert words.startswith(f"8-bit products (cpu kernel, {by}) of 2 modules")
    assert linear_layers.where([linear]) == "the model's own modules, called"
    assert "in_features=70, out_features=40, bias=True, smoothing=False" in repr(layer)
