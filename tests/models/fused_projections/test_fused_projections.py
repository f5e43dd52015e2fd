"""Fused projections: same results, nothing of the user's changed, the copies stay the handle's."""

import copy
import gc
import io
import weakref

import pytest
import torch

import dpad
from dpad import ops
from dpad.models import linear_layers
from tests.decode.common import MASK_ID, VOCAB, tiny
from tests.doubles.reference_decoder import reference
from tests.generation.common import logits
from tests.models.fused_projections.common import IDS, OPTIONS, close, fused_layers, unfused

pytestmark = pytest.mark.once


@pytest.fixture
def products(monkeypatch):
    """Output widths of every linear layer that runs, called or fused."""
    found, linear = [], torch.nn.functional.linear

    def counted(x, weight, bias=None):
        found.append(weight.shape[0])
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    return found


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_same_tokens_and_logits(request, name, prompts):
    model, ids = request.getfixturevalue(name), torch.tensor([prompts[0]])
    keys, entries = list(model.state_dict()), dict(model.__dict__)
    with dpad.patch(model):
        tokens = [model.generate([p], **OPTIONS) for p in prompts]
        expected = logits(model, ids)
    with dpad.patch(model, fuse_projections=True) as handle:
        assert fused_layers(handle) == (len(handle.adapter.layers),) * 2
        assert list(model.state_dict()) == keys
        close(logits(model, ids), expected)
        for prompt, wanted in zip(prompts, tokens, strict=True):
            assert torch.equal(model.generate([prompt], **OPTIONS), wanted)
    assert model.__dict__ == entries and list(model.state_dict()) == keys


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_the_reference_decoder_agrees(model, handle, cache):
    ids = IDS[:1]
    rule = ("threshold", 0.6)
    expected = reference(model, ids, 24, mask_id=MASK_ID, rule=rule, block_length=8, cache=cache)
    out = model.generate(
        ids,
        max_new_tokens=24,
        block_length=8,
        suffix=dpad.Suffix("all"),
        cache=cache,
        early_stop=False,
        compatible="fast-dllm-llada",
        threshold=0.6,
    )
    assert torch.equal(out, expected.tokens)


def test_products_of_a_pass(model, handle, products):
    """q, k, v (32 + 16 + 16) and gate, up (2 * 48) at once; the last layer's q by itself."""
    model.generate([[5, 6, 7]], max_new_tokens=8, block_length=8, steps=1, cache="none")
    first, last = [64, 32, 96, 32], [32, 32, 32, 96, 32]
    assert products == [*first, *last, VOCAB]


def test_the_report_states_layers_and_bytes(model, handle):
    wanted = sum(
        part.module.weight.nbytes
        for layer in handle.adapter.layers
        for part in (*layer.attention.parts()[:3], layer.mlp.gate_proj, layer.mlp.up_proj)
    )
    assert handle.adapter.fused.nbytes == wanted
    assert f"q, k, v of 2 and gate, up of 2 of 2 layers, {wanted} bytes more" in repr(handle)
    handle.remove()
    assert "gate, up of 0 of 2 layers, 0 bytes more" in repr(handle)
    with dpad.patch(model) as plain:
        assert "fused" not in dict(plain.rows())


def test_remove_frees_the_copies(model, handle):
    model.generate([[5, 6]], **OPTIONS)
    copies = [weakref.ref(fused.weight) for fused in handle.adapter.fused._fused.values()]
    assert len(copies) == 6
    handle.remove()
    gc.collect()
    assert not any(copy() is not None for copy in copies)
    handle.adapter.fused.refresh()
    assert handle.adapter.fused.nbytes == 0


def test_gradients_reach_the_parameters(model, handle):
    layer = handle.adapter.layers[0]
    x = torch.randn(3, 32, requires_grad=True)
    parts = layer.attention.parts()[:3]
    sum(out.sum() for out in handle.adapter.products(parts, x)).backward()
    assert all(part.module.weight.grad is not None for part in parts)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_of_the_model_do_not_carry_them(model, handle, way):
    expected, size = logits(model, IDS), handle.adapter.fused.nbytes
    buffer = io.BytesIO()
    torch.save(model, buffer)
    plain = io.BytesIO()
    with dpad.patch(tiny()) as other:
        torch.save(other.model, plain)
    assert buffer.tell() < plain.tell() + size // 8
    if way == "deepcopy":
        clone = copy.deepcopy(model)
    else:
        buffer.seek(0)
        clone = torch.load(buffer, weights_only=False)
    own = clone._dpad_handle
    assert own.adapter.fused is not handle.adapter.fused and own.adapter.fused.nbytes == 0
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert torch.equal(logits(clone, IDS), expected) and own.adapter.fused.nbytes == size
    own.remove()
    assert handle.active and logits(model, IDS).abs().max() == 0


def test_compiled_code_calls_the_modules(model, handle):
    widths = []

    def backend(graph, inputs):
        for node in graph.graph.nodes:
            if "linear" in str(node.target):
                widths.append(node.meta["example_value"].shape[-1])
        return graph

    expected = logits(model, IDS)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    close(logits(compiled, IDS), expected)
    assert widths.count(48) == 4 and not {64, 96} & set(widths)
    with torch.no_grad():
        model.model.transformer.blocks[0].q_proj.weight.neg_()
    close(logits(compiled, IDS), unfused(model))
    torch._dynamo.reset()


def test_on_the_operator(model, handle, monkeypatch):
    """The operator stands in for a fused product as it does for a module."""
    if ops.cpu_isa() not in linear_layers.ISAS:
        pytest.skip("no instruction set here on which the operator stands in")
    expected, widths, operator = logits(model, IDS), [], ops.linear

    def counted(x, weight, bias=None):
        widths.append(weight.shape[0])
        return operator(x, weight, bias)

    monkeypatch.setattr(ops, "linear", counted)
    monkeypatch.setattr(linear_layers, "LEAST_WEIGHT", 1)
    close(logits(model, IDS), expected)
    assert widths == 2 * [64, 32, 96, 32] + [VOCAB]


def test_errors(model):
    with pytest.raises(TypeError, match=r"fuse_projections = 1: expected True or False"):
        dpad.patch(model, fuse_projections=1)
    assert "_dpad_handle" not in model.__dict__
