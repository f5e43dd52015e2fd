"""What changes on a module between two steps of a decoding holds from the next step on."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import dpad
from dpad.models import linear_layers
from tests.decode.common import tiny
from tests.generation.common import Doubled

pytestmark = pytest.mark.once

OPTIONS = {"max_new_tokens": 16, "block_length": 8, "steps": 8, "early_stop": False, "seed": 3}
PROMPT = [5, 6, 7, 8, 9]
# After which steps it changes, and changes back.
CHANGED, BACK = 2, 5
PLACES = {
    "linear": "model.transformer.blocks.1.q_proj",
    "last linear": "model.transformer.blocks.1.ff_out",
    "head": "model.transformer.ff_out",
    "norm": "model.transformer.blocks.1.attn_norm",
    "last norm": "model.transformer.ln_f",
}


def in_place(parent, name):
    """What each of the others comes to: the truth, for nobody holds the weight's values."""
    weight = getattr(parent, name).weight.data
    weight.mul_(2)
    return lambda: weight.div_(2)


def forward_hook(parent, name):
    return getattr(parent, name).register_forward_hook(lambda m, given, out: out * 2).remove


def pre_hook(parent, name):
    hook = getattr(parent, name).register_forward_pre_hook(lambda m, given: (given[0] * 2,))
    return hook.remove


def global_hook(parent, name):
    module, register = getattr(parent, name), nn.modules.module.register_module_forward_hook
    return register(lambda m, given, out: out * 2 if m is module else None).remove


def global_pre_hook(parent, name):
    module, register = getattr(parent, name), nn.modules.module.register_module_forward_pre_hook
    return register(lambda m, given: (given[0] * 2,) if m is module else None).remove


def replaced(parent, name):
    before = getattr(parent, name)
    setattr(parent, name, Doubled(before))
    return lambda: setattr(parent, name, before)


def another(parent, name):
    """Another layer of the same class."""
    before = getattr(parent, name)
    with torch.inference_mode(False):
        after = nn.Linear(before.in_features, before.out_features, bias=False)
        after.weight = nn.Parameter(before.weight.detach() * 2)
    setattr(parent, name, after)
    return lambda: setattr(parent, name, before)


def low_rank(parent, name):
    """As LoRA: beside the layer, a product of two."""

    class LowRank(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.down = base, nn.Linear(base.in_features, 64, bias=False)
            self.up = nn.Linear(64, base.out_features, bias=False)
            self.down.weight = nn.Parameter(torch.eye(64, base.in_features))
            self.up.weight = nn.Parameter(torch.zeros(base.out_features, 64))
            self.up.weight.data[:, : base.in_features] = base.weight.data

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    before = getattr(parent, name)
    with torch.inference_mode(False):
        setattr(parent, name, LowRank(before))
    return lambda: setattr(parent, name, before)


def new_weight(parent, name):
    module, before = getattr(parent, name), getattr(parent, name).weight
    with torch.inference_mode(False):
        module.weight = nn.Parameter(before.detach() * 2)
    return lambda: setattr(module, "weight", before)


def no_parameter(parent, name):
    """The weight as a plain attribute, as sharding and old-style reparametrisations have it."""
    module, before = getattr(parent, name), getattr(parent, name).weight
    del module.weight
    module.weight = before.detach() * 2

    def back():
        del module.weight
        module.weight = before

    return back


def parametrized(parent, name):
    class Twice(nn.Module):
        def forward(self, weight):
            return weight * 2

    module = getattr(parent, name)
    with torch.inference_mode(False):
        parametrize.register_parametrization(module, "weight", Twice())
    return lambda: parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def instance_forward(parent, name):
    module = getattr(parent, name)
    stock = module.forward
    module.forward = lambda x: stock(x) * 2
    return lambda: delattr(module, "forward")


def class_function(owner, attribute):
    """Another function of torch's class, as profilers and kernel libraries put there."""

    def change(parent, name):
        module, stock = getattr(parent, name), getattr(owner, attribute)

        def doubled(self, *args):
            out = stock(self, *args)
            return out * 2 if self is module else out

        setattr(owner, attribute, doubled)
        return lambda: setattr(owner, attribute, stock)

    return change


CHANGES = {
    "forward hook": forward_hook,
    "pre-hook": pre_hook,
    "global hook": global_hook,
    "global pre-hook": global_pre_hook,
    "replaced by a wrapper": replaced,
    "replaced by a layer": another,
    "LoRA": low_rank,
    "new weight": new_weight,
    "no parameter": no_parameter,
    "parametrized": parametrized,
    "forward of the instance": instance_forward,
    "forward of the class": class_function(nn.Linear, "forward"),
    "call of the class": class_function(nn.Module, "__call__"),
}
# A norm of twice the input is the same norm, and hooks on all modules run where one is called.
OF_LINEAR = {
    "replaced by a wrapper",
    "pre-hook",
    "global hook",
    "global pre-hook",
    "replaced by a layer",
    "LoRA",
}
OF_LINEAR |= {"forward of the class", "call of the class"}
CASES = [
    (place, kind)
    for place in PLACES
    for kind in CHANGES
    if "norm" not in place or kind not in OF_LINEAR
]


def decoded(model, place, change, by_engine):
    """(scores of every position in every step, how many of them each step had)."""
    parent, _, name = PLACES[place].rpartition(".")
    parent = model.get_submodule(parent)
    scores, counts, undo = [], [], []

    def seen(ids, given):
        scores.append(given.clone())
        return given

    def after_step(*_):
        counts.append(len(scores) - sum(counts))
        if len(counts) == CHANGED and change is not None:
            undo.append(change(parent, name))
        if len(counts) == BACK and undo:
            undo.pop()()
        return {}

    if by_engine:
        engine = dpad.Engine(model)
        request = engine.submit(PROMPT, logits_processor=[seen], **OPTIONS)
        while request.status in ("pending", "decoding") and engine.step():
            after_step()
        engine.close()
    else:
        own = {"logits_processor": [seen], "callback_on_step_end": after_step}
        with dpad.patch(model):
            model.generate([PROMPT], **OPTIONS, **own)
    assert len(counts) > BACK and not undo
    return torch.cat(scores), counts


def equal_until(a, b):
    """How many scores are the same from the beginning on."""
    different = (a != b).flatten(1).any(1).nonzero()
    return int(different[0]) if len(different) else len(a)


@pytest.mark.parametrize("by_engine", [False, True], ids=["generate", "engine"])
@pytest.mark.parametrize("least", [linear_layers.LEAST_WEIGHT, 1], ids=["torch", "operator"])
@pytest.mark.parametrize(("place", "kind"), CASES)
def test_it_holds_from_the_next_step_on(monkeypatch, place, kind, least, by_engine):
    monkeypatch.setattr(linear_layers, "LEAST_WEIGHT", least)
    plain, counts = decoded(tiny(), place, None, by_engine)
    want, _ = decoded(tiny(), place, in_place, by_engine)
    assert equal_until(want, plain) == sum(counts[:CHANGED])  # the very next step
    found, found_counts = decoded(tiny(), place, CHANGES[kind], by_engine)
    assert found_counts == counts
    assert equal_until(found, plain) == sum(counts[:CHANGED])
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-3)


def test_something_around_a_norm_is_refused_by_name():
    with pytest.raises(dpad.UnsupportedModelError, match="'attn_norm' is a Doubled without 'eps'"):
        decoded(tiny(), "norm", replaced, by_engine=False)


@pytest.mark.parametrize("by_engine", [False, True], ids=["generate", "engine"])
def test_pruning_holds_from_the_next_step_on(by_engine):
    mask = (torch.rand(32, 32, generator=torch.Generator().manual_seed(1)) < 0.7).float()

    def by_hand(parent, name):
        getattr(parent, name).weight.data.mul_(mask)
        return lambda: None

    def pruned(parent, name):
        with torch.inference_mode(False):
            prune.custom_from_mask(getattr(parent, name), "weight", mask)
        return lambda: prune.remove(getattr(parent, name), "weight")

    plain, counts = decoded(tiny(), "linear", None, by_engine)
    want, _ = decoded(tiny(), "linear", by_hand, by_engine)
    found, _ = decoded(tiny(), "linear", pruned, by_engine)
    assert equal_until(found, plain) == equal_until(want, plain) == sum(counts[:CHANGED])
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-3)
