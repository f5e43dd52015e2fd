"""Int8Embedding: what it computes and holds, and that nothing of it gets lost on its ways."""

import copy
import io

import pytest
import torch
from torch import nn

from dpad.models.int8_embedding import Int8Embedding

IDS = torch.tensor([[0, 3, 39], [7, 7, 1]])


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    return nn.Embedding(40, 70).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_is_the_nearest_numbers_times_its_scale(embedding, dtype):
    exact = embedding(IDS).detach()
    layer = Int8Embedding.of(embedding.to(dtype))
    out = layer(IDS)
    assert out.dtype == layer.dtype == dtype and out.shape == (2, 3, 70)
    spread = exact.abs().amax(-1, keepdim=True)
    rounding = 1 / 254 + (0 if dtype == torch.float32 else 1 / 128)
    assert ((out.float() - exact).abs() <= 1.01 * rounding * spread).all()
    wide = layer.weight[IDS].float() * layer.scale[IDS][..., None]
    assert torch.equal(out, wide.to(dtype))
    assert torch.equal(layer(IDS[0]), out[0]) and layer(IDS[:0]).shape == (0, 3, 70)


def test_its_outputs_are_its_own(embedding):
    """The decoder writes into the rows that it gets."""
    layer = Int8Embedding.of(embedding)
    before = layer(IDS)
    layer(IDS).zero_()
    assert torch.equal(layer(IDS), before)


def test_state_dict_and_copies(embedding):
    layer = Int8Embedding.of(embedding)
    state = layer.state_dict()
    assert list(state) == ["weight", "scale"] and state["weight"].dtype == torch.int8
    again = Int8Embedding(40, 70)
    again.load_state_dict(state)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (again, copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(IDS), layer(IDS))


def test_its_outputs_follow_the_models_dtype_and_its_scales_do_not(embedding):
    layer = Int8Embedding.of(embedding)
    scale = layer.scale.clone()
    for convert, dtype in (
        (lambda m: m.to(torch.bfloat16), torch.bfloat16),
        (lambda m: m.half(), torch.float16),
        (lambda m: m.float(), torch.float32),
    ):
        convert(layer)
        assert layer.dtype == layer(IDS).dtype == dtype
        assert layer.weight.dtype == torch.int8 and torch.equal(layer.scale, scale)
    meta = layer.to("meta")
    assert meta.scale.device.type == "meta" and meta.dtype == torch.float32
    assert "40, 70, dtype=torch.float32" in repr(layer)


def test_what_is_not_finite_is_refused(embedding):
    embedding.weight.data[39, 69] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        Int8Embedding.of(embedding)


def test_under_compile(embedding):
    layer = Int8Embedding.of(embedding)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(IDS), layer(IDS))
