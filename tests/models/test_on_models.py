"""What people do to a live model before or after it is patched, without foreign packages."""

import copy
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import dpad
from dpad.models.adapter import UnsupportedModelError
from tests.generation.common import Doubled, assert_close, logits

OPTIONS = {"max_new_tokens": 16, "block_length": 8, "threshold": 0.6, "seed": 3, "cache": "dual"}
NORMS = ("attn_norm", "input_layernorm")


def blocks(model):
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList))


def first_norm(model):
    """(name, module) of the first layer's first norm."""
    return next((n, m) for n, m in model.named_modules() if n.rpartition(".")[2] in NORMS)


class Scaled(nn.Module):
    def forward(self, weight):
        return 1.5 * weight


@pytest.mark.parametrize("when", ("before", "after", "after use"))
def test_a_replaced_projection_is_the_one_that_runs(model, ids, when):
    """Whenever it is replaced: the decoder knows places, not modules."""
    plain = logits(model, ids)
    handle = None if when == "before" else dpad.patch(model)
    if when == "after use":
        model.generate(ids, **OPTIONS)
        logits(model, ids)
    name = next(n for n, _ in model.named_modules() if n.endswith("up_proj"))
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, Doubled(model.get_submodule(name)))
    handle = handle or dpad.patch(model)
    got, tokens = logits(model, ids), model.generate(ids, **OPTIONS)
    handle.remove()
    want = logits(model, ids)
    assert_close(got, want)
    assert not torch.allclose(want, plain, atol=0.1)
    assert tokens.equal(dpad.generate(copy.deepcopy(model), ids, **OPTIONS))


def test_a_replaced_head_and_embedding(model, ids):
    with dpad.patch(model) as handle:
        before = model.generate(ids, **OPTIONS)
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        with torch.no_grad():
            other = nn.Embedding.from_pretrained(embedding.weight.flip(0).clone())
        model.set_input_embeddings(other)
        model.set_output_embeddings(Doubled(head))
        got, after = logits(model, ids), model.generate(ids, **OPTIONS)
    assert not handle.active and not after.equal(before)
    assert_close(got, logits(model, ids))
    assert after.equal(dpad.generate(copy.deepcopy(model), ids, **OPTIONS))


def test_parametrized_and_pruned_weights(model, ids):
    """Weights that are computed where they are read: torch's parametrizations, pruning."""
    _, norm = first_norm(model)
    parametrize.register_parametrization(norm, "weight", Scaled())
    linear = next(m for m in model.modules() if type(m) is nn.Linear)
    prune.l1_unstructured(linear, "weight", amount=0.5)  # by a forward pre-hook
    want = logits(model, ids)
    with dpad.patch(model) as handle:
        assert not handle.notes
        assert_close(logits(model, ids), want)


def test_layers_compiled_one_by_one(model, ids):
    want, tokens = logits(model, ids), dpad.generate(model, ids, **OPTIONS)
    layers = blocks(model)
    for number in range(len(layers)):
        layers[number] = torch.compile(layers[number], backend="eager")
    with dpad.patch(model) as handle:
        assert not handle.notes
        assert_close(logits(model, ids), want)
        assert model.generate(ids, **OPTIONS).equal(tokens)


def test_a_forward_replaced_on_a_module_that_is_not_called(model, ids):
    """dpad would not run a layer's forward, and says so."""
    module = blocks(model)[0]
    name = next(n for n, m in model.named_modules() if m is module)
    module.forward = types.MethodType(lambda self, x, *args, **kwargs: x, module)
    assert not dpad.supports(model) and dpad.supports(model, strict=False)
    with pytest.raises(UnsupportedModelError, match=f"replaced forward on {name} "):
        dpad.patch(model)
    with dpad.patch(model, strict=False) as handle:
        assert name in handle.notes[0]
        assert model.generate(ids, **OPTIONS).shape == (2, 27)
    del module.forward
    assert dpad.supports(model)


def test_inference_mode_and_its_absence_share_a_handle(model, ids):
    """Buffers that were made in inference mode serve outside of it, and gradients still flow."""
    with dpad.patch(model):
        with torch.inference_mode():
            first, quick = model.generate(ids, **OPTIONS), model(ids).logits
        assert model.generate(ids, **OPTIONS).equal(first)
        assert logits(model, ids).equal(quick)
        model(ids).logits.sum().backward()
    assert model.get_input_embeddings().weight.grad is not None


def test_parameters_moved_away_after_patching_raise(model, ids):
    with dpad.patch(model):
        model.generate(ids, **OPTIONS)
        model.to("meta")
        with pytest.raises(UnsupportedModelError, match="meta device"):
            model.generate(ids, **OPTIONS)
