"""Whatever a user puts on a module after `patch` works, or is refused by name at the call."""

import copy
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import dpad
from dpad.models.adapter import UnsupportedModelError
from tests.doubles import dream_stock, remote
from tests.generation.common import DREAM, MASK_ID, META, Doubled, assert_close, logits
from tests.models.dream_stock.common import cure

PLAIN = {"max_new_tokens": 16, "block_length": 8, "seed": 1, "early_stop": False}


@pytest.fixture(params=("llada", "dream", "released llada", "released dream"))
def any_model(request, weights, dream_weights, monkeypatch):
    if request.param == "released llada":
        return remote.llada_model(META["config"], 2, weights)
    if request.param == "released dream":
        cure(dream_stock, monkeypatch)
        model = dream_stock.DreamModel(dream_stock.DreamConfig(**DREAM["config"])).float().eval()
        model.load_state_dict(dream_weights)
        return model
    return request.getfixturevalue(request.param)


def blocks(model):
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList))


def first(output):
    return output[0] if isinstance(output, tuple) else output


def shifted(output):
    """The same output with other hidden states."""
    hidden = first(output) * 0.5 + 0.25
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


CHANGES = {
    "output": lambda m: m.register_forward_hook(lambda m, given, out: shifted(out)),
    "input": lambda m: m.register_forward_pre_hook(
        lambda m, given: (shifted(given[0]), *given[1:])
    ),
    "both, with keywords": lambda m: (
        m.register_forward_hook(lambda m, given, more, out: shifted(out), with_kwargs=True),
        m.register_forward_pre_hook(
            lambda m, given, more: ((shifted(given[0]), *given[1:]), more), with_kwargs=True
        ),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_hooks_on_blocks_change_what_they_would_change(any_model, ids, change, number):
    handle = dpad.patch(any_model)
    plain, tokens = logits(any_model, ids), any_model.generate(ids, **PLAIN)
    CHANGES[change](blocks(any_model)[number])
    found, decoded = logits(any_model, ids), any_model.generate(ids, **PLAIN)
    assert_close(found, _stock(handle, ids))
    assert not torch.allclose(found, plain, atol=1e-2) and not torch.equal(decoded, tokens)
    handle.remove()
    assert torch.equal(dpad.generate(any_model, ids, **PLAIN), decoded)


@torch.no_grad()
def _stock(handle, ids):
    return handle.stock_forward(ids).logits


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_recorded_states_stand_at_their_positions(model, ids, cache):
    """What a hook sees in the first pass is what the model's own forward has there."""
    seen = []

    def record(module, given, output):
        rows = dpad.rows_of_pass()
        assert module is blocks(model)[1]
        seen.append((rows.sequence, rows.position, given[0], first(output)))

    with torch.no_grad():
        canvas = nn.functional.pad(ids, (0, 16), value=MASK_ID)
        states = model(canvas, output_hidden_states=True).hidden_states
    dpad.patch(model)
    blocks(model)[1].register_forward_hook(record)
    options = {**PLAIN, "cache": cache, "suffix": dpad.Suffix("all")}
    out = model.generate(ids, return_dict_in_generate=True, **options)
    assert len(seen) >= int(out.forwards.max())
    row, position, given, output = seen[0]
    assert sorted(zip(row.tolist(), position.tolist(), strict=True)) == [
        (r, p) for r in range(2) for p in range(canvas.shape[1])
    ]
    assert torch.allclose(given, states[1][row, position], atol=1e-4)
    assert torch.allclose(output, states[2][row, position], atol=1e-4)
    assert not given.is_inference() and not output.is_inference()
    with pytest.raises(RuntimeError, match="no hook on a block is running"):
        dpad.rows_of_pass()


def test_what_a_hook_keeps_is_what_it_saw(model, ids):
    kept = []
    dpad.patch(model)
    blocks(model)[0].register_forward_hook(
        lambda m, given, out: kept.append([(t, t.clone()) for t in (given[0], first(out))])
    )
    model.generate(ids, **PLAIN)
    assert kept and all(torch.equal(t, seen) for pair in kept for t, seen in pair)


@pytest.mark.parametrize("bad", [lambda x: x[:1], lambda x: None, lambda x: x.double()])
def test_what_a_hook_returns_is_checked(model, ids, bad):
    def hook(module, given, output):
        return (bad(first(output)),)

    dpad.patch(model)
    handle = blocks(model)[1].register_forward_hook(hook)
    with pytest.raises(ValueError, match=f"a hook on a {type(blocks(model)[1]).__name__} returned"):
        model.generate(ids, **PLAIN)
    handle.remove()
    model.generate(ids, **PLAIN)


@pytest.mark.parametrize("when", ["patched", "unpatched"])
def test_hooks_on_attention_are_refused_at_the_call(dream, ids, when):
    handle = dpad.patch(dream) if when == "patched" else None
    want, name = logits(dream, ids), "model.layers.1.self_attn"
    hook = dream.get_submodule(name).register_forward_hook(lambda m, given, out: out * 2)
    state = torch.get_rng_state()
    with pytest.raises(UnsupportedModelError, match=name):
        dpad.generate(dream, ids, **PLAIN)
    assert torch.equal(torch.get_rng_state(), state)
    if handle is not None:
        found = logits(dream, ids)  # the model's own forward runs them
        assert torch.equal(found, _stock(handle, ids)) and not torch.allclose(
            found, want, atol=1e-2
        )
    hook.remove()
    assert_close(logits(dream, ids), want)
    dpad.generate(dream, ids, **PLAIN)


def scaled(output):
    return type(output)(logits=output.logits * 2)


def replace_forward(model):
    stock = model.forward
    model.forward = lambda *args, **kwargs: scaled(stock(*args, **kwargs))
    return types.SimpleNamespace(remove=lambda: setattr(model, "forward", stock))


ON_THE_MODEL = {
    "hooks on the": lambda m: m.register_forward_hook(lambda m, given, out: scaled(out)),
    "pre": lambda m: m.register_forward_pre_hook(lambda m, given: (given[0] * 0 + 1,)),
    "a replaced forward of the": replace_forward,
}


@pytest.mark.parametrize("kind", ON_THE_MODEL)
@pytest.mark.parametrize("when", ["before", "after", "unpatched"])
def test_what_stands_on_the_model_itself(any_model, ids, kind, when):
    """It runs when the model is called; decoding, which does not call it, refuses it."""
    handle = dpad.patch(any_model) if when == "after" else None
    plain, tokens = logits(any_model, ids), dpad.generate(any_model, ids, **PLAIN)
    put = ON_THE_MODEL[kind](any_model)
    handle = dpad.patch(any_model) if when == "before" else handle
    name = kind.replace("pre", "hooks on the") + f" {type(any_model).__name__} itself"
    if when == "before":
        assert any(name in note for note in handle.notes)
    assert not torch.allclose(logits(any_model, ids), plain, atol=1e-2)
    with pytest.raises(UnsupportedModelError, match=name):
        dpad.generate(any_model, ids, **PLAIN)
    with pytest.raises(UnsupportedModelError, match=name):
        dpad.loglikelihood(any_model, [([1, 2], [3])], samples=1)
    if handle is not None and when == "before":
        handle.remove()
    put.remove()
    assert_close(logits(any_model, ids), plain)
    assert torch.equal(dpad.generate(any_model, ids, **PLAIN), tokens)


def test_it_is_skipped_where_that_was_asked_for(model, ids):
    tokens = dpad.generate(model, ids, **PLAIN)
    model.register_forward_hook(lambda m, given, out: scaled(out))
    with dpad.patch(model, strict=False) as handle:
        assert any("itself" in note and "skips" in note for note in handle.notes)
        assert torch.equal(model.generate(ids, **PLAIN), tokens)


def test_a_compiled_forward_is_its_class_s(model, ids):
    tokens = dpad.generate(model, ids, **PLAIN)
    model.forward = torch.compile(model.forward, backend="eager")
    assert torch.equal(dpad.generate(model, ids, **PLAIN), tokens)
    with dpad.patch(model) as handle:
        assert not handle.notes
        assert torch.equal(model.generate(ids, **PLAIN), tokens)


def test_likelihoods_refuse_hooks_that_they_would_skip(dream):
    dream.model.layers[1].self_attn.register_forward_hook(lambda m, given, out: out * 2)
    with pytest.raises(UnsupportedModelError, match="model.layers.1.self_attn"):
        dpad.loglikelihood(dream, [([1, 2], [3])], samples=1)


def test_skipped_hooks_are_noted_where_that_was_asked_for(dream, ids):
    dream.model.layers[1].self_attn.register_forward_hook(lambda m, given, out: out * 2)
    with pytest.raises(UnsupportedModelError, match="self_attn"):
        dpad.patch(dream)
    with dpad.patch(dream, strict=False) as handle:
        assert "self_attn" in handle.notes[0]
        dream.generate(ids, **PLAIN)
        clone = copy.deepcopy(dream)
        clone.generate(ids, **PLAIN)


class Wrapped(nn.Module):
    """Another module around a block."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def test_a_replaced_block_is_noticed(model, ids):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in blocks(other)[1].parameters():
            weight.mul_(1.5)
    want = dpad.generate(other, ids, **PLAIN)
    handle = dpad.patch(model)
    plain = model.generate(ids, **PLAIN)
    old = blocks(model)[1]
    blocks(model)[1] = blocks(other)[1]
    assert_close(logits(model, ids), logits(other, ids))
    assert torch.equal(model.generate(ids, **PLAIN), want) and not torch.equal(want, plain)
    blocks(model)[1] = Wrapped(old)
    with pytest.raises(UnsupportedModelError, match="has no '"):
        model.generate(ids, **PLAIN)
    blocks(model)[1] = old
    assert torch.equal(model.generate(ids, **PLAIN), plain)
    handle.remove()


def test_a_changed_configuration_is_noticed(model, ids):
    handle = dpad.patch(model)
    model.generate(ids, **PLAIN)
    model.config.rope_theta = 17.0
    with torch.no_grad():
        assert_close(logits(model, ids), _stock(handle, ids))
    other = type(model)(model.config).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.generate(ids, **PLAIN), dpad.generate(other, ids, **PLAIN))
    model.config.mask_token_id = 5
    with pytest.raises(ValueError, match="holds the mask id 5"):
        model.generate([[1, 5]], **PLAIN)


def test_parametrised_and_wrapped_layers_run(model, ids):
    class Half(nn.Module):
        def forward(self, weight):
            return weight * 0.5

    handle = dpad.patch(model)
    name = next(n for n, m in model.named_modules() if n.endswith("q_proj"))
    parametrize.register_parametrization(model.get_submodule(name), "weight", Half())
    assert_close(logits(model, ids), _stock(handle, ids))
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, Doubled(model.get_submodule(name)))
    assert_close(logits(model, ids), _stock(handle, ids))
    found = model.generate(ids, **PLAIN)
    handle.remove()
    assert torch.equal(found, dpad.generate(model, ids, **PLAIN))


def test_another_dtype_is_noticed(model, ids):
    dpad.patch(model)
    model.generate(ids, **PLAIN)
    model.double()
    with pytest.raises(UnsupportedModelError, match="the model is torch.float64: dpad decodes in"):
        model.generate(ids, **PLAIN)
    model.float()
    model.generate(ids, **PLAIN)


@pytest.mark.parametrize("place", ["", "block", "base"])
def test_weights_of_a_fork_that_are_not_read_are_named(model, ids, place):
    owner = {"": model, "block": blocks(model)[1], "base": model.model}[place]
    owner.mask_head = nn.Linear(4, 4, bias=False)
    name = next(n for n, _ in model.named_parameters() if "mask_head" in n)
    with pytest.raises(UnsupportedModelError, match=f"does not read {name}: pass strict=False"):
        dpad.patch(model)
    assert not dpad.supports(model) and dpad.supports(model, strict=False)
    with dpad.patch(model, strict=False) as handle:
        assert any(name in note for note in handle.notes)
        model.generate(ids, **PLAIN)
    del owner.mask_head
    dpad.patch(model).remove()
