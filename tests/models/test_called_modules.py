"""Norms and MLPs with hooks or a forward of their own: called, with the stock forward's results."""

import types

import pytest
import torch
from torch.nn.utils import prune

import dpad
from dpad import ops
from tests.ecosystem.common import PLAIN, own_forward
from tests.generation.common import Doubled, assert_close, logits

PLACES = {
    "llada": (
        "model.transformer.blocks.1.attn_norm",
        "model.transformer.blocks.2.ff_norm",
        "model.transformer.ln_f",
    ),
    "dream": (
        "model.layers.1.input_layernorm",
        "model.layers.2.post_attention_layernorm",
        "model.norm",
        "model.layers.1.mlp",
        "model.layers.2.mlp",
    ),
}


@pytest.fixture(params=[*PLACES["llada"], *PLACES["dream"]])
def place(request):
    """(model, name of one of its modules, that module)."""
    name = request.param
    model = request.getfixturevalue("llada" if name in PLACES["llada"] else "dream")
    return model, name, model.get_submodule(name)


def mixed(x):
    return x + 0.5 * x.roll(1, -1)


def changed_output(module):
    return module.register_forward_hook(lambda m, given, out: mixed(out))


def changed_input(module):
    return module.register_forward_pre_hook(lambda m, given: (mixed(given[0]),))


def changed_in_place(module):
    def change(module, given):
        given[0].copy_(mixed(given[0]))

    return module.register_forward_pre_hook(change)


def own(module):
    """As kernel libraries do to norms: a forward on the instance."""
    stock = type(module).forward
    module.forward = types.MethodType(lambda self, x: mixed(stock(self, x)), module)
    return types.SimpleNamespace(remove=lambda: delattr(module, "forward"))


@pytest.mark.parametrize("change", (changed_output, changed_input, changed_in_place, own))
@pytest.mark.parametrize("when", ("before", "after"))
def test_results_are_the_stock_forward_s(place, ids, change, when):
    model, name, module = place
    plain = logits(model, ids)
    handle = None if when == "before" else dpad.patch(model)
    if when == "after":
        before = logits(model, ids), model.generate(ids, **PLAIN)
    undo = change(module)
    handle = handle or dpad.patch(model)
    assert dict(handle.rows())["called whole"].startswith(f"{name} (hooks")
    assert name in repr(handle) and not handle.notes
    found, tokens = logits(model, ids), model.generate(ids, **PLAIN)
    handle.remove()
    want = logits(model, ids)
    assert_close(found, want)
    assert not torch.allclose(want, plain, atol=0.1)
    assert tokens.equal(own_forward(model, ids))
    undo.remove()
    with dpad.patch(model) as handle:
        assert "called whole" not in dict(handle.rows())
        if when == "after":
            assert logits(model, ids).equal(before[0])
            assert model.generate(ids, **PLAIN).equal(before[1])


def test_what_hooks_keep_is_what_they_saw(place, ids):
    """The residual that a norm reads goes on changing; what was seen does not."""
    model, _, module = place
    seen = []
    module.register_forward_hook(lambda m, given, out: seen.append((given[0], out)))
    logits(model, ids)
    with dpad.patch(model):
        logits(model, ids)
    for want, found in zip(*seen, strict=True):
        assert_close(found, want.flatten(0, 1))


def test_what_is_not_called_is_the_operator(place, ids, monkeypatch):
    """Of one norm less, or one SwiGLU."""
    model, name, module = place
    calls = {"add_rms_norm_": 0, "swiglu": 0}

    def counted(name, operator):
        def call(*args):
            calls[name] += 1
            return operator(*args)

        return call

    for called in calls:
        monkeypatch.setattr(ops, called, counted(called, getattr(ops, called)))
    module.register_forward_hook(lambda *_: None)
    with dpad.patch(model):
        logits(model, ids)
    assert calls == {
        "add_rms_norm_": 7 - ("norm" in name or "ln_f" in name),
        "swiglu": 3 - ("mlp" in name),
    }


def test_hooks_inside_a_called_mlp_run_once(dream, ids):
    mlp, seen = dream.model.layers[1].mlp, []
    mlp.register_forward_hook(lambda *_: seen.append("mlp"))
    mlp.up_proj.register_forward_hook(lambda *_: seen.append("up"))
    with dpad.patch(dream):
        logits(dream, ids)
    assert seen == ["up", "mlp"]


def test_a_replaced_mlp_is_the_one_that_runs(dream, ids):
    layer = dream.model.layers[1]
    with dpad.patch(dream, fuse_projections=True) as handle:
        plain = logits(dream, ids)
        layer.mlp = Doubled(layer.mlp)
        found = logits(dream, ids)
        assert "gate, up of 2 of 3 layers" in repr(handle)
        assert dict(handle.rows())["called whole"].startswith("model.layers.1.mlp (hooks")
    assert_close(found, logits(dream, ids))
    assert not torch.allclose(found, plain, atol=0.1)


def test_a_wrapped_projection_need_not_say_its_width(dream, ids):
    mlp = dream.model.layers[1].mlp
    width, mlp.up_proj = mlp.up_proj.out_features, Doubled(mlp.up_proj)
    with dpad.patch(dream) as handle:
        assert handle.adapter.mlp_width == width
        assert dream.generate(ids, max_new_tokens=8).shape[1] == ids.shape[1] + 8


@pytest.mark.once
def test_torch_compile_traces_them(place, ids):
    model, _, module = place
    changed_output(module)
    want = logits(model, ids)
    torch._dynamo.reset()
    with dpad.patch(model):
        assert_close(logits(torch.compile(model, fullgraph=True, backend="eager"), ids), want)
    torch._dynamo.reset()


def test_a_pruned_norm(llada, ids):
    """Pruning computes the weight in a hook, before every call."""
    prune.l1_unstructured(llada.model.transformer.ln_f, "weight", amount=0.3)
    with torch.no_grad():
        llada.model.transformer.ln_f.weight_orig.mul_(2)  # unseen until the hook runs
    with dpad.patch(llada):
        found = logits(llada, ids)
    assert_close(found, logits(llada, ids))
