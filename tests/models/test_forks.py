"""A fork with more than its family: what dpad's forward leaves out is named, or refused."""

import pytest
import torch
from torch import nn

import dpad
from dpad.models import forks
from dpad.models.adapter import find_adapter
from dpad.models.hf.dream import DreamModel
from dpad.models.parts import UnsupportedModelError
from tests.doubles import dream_stock, remote
from tests.ecosystem.common import PLAIN
from tests.generation.common import DREAM, META
from tests.models.dream_stock.common import cure
from tests.models.families import SMALL, small


class Made(DreamModel):
    """A further output beside the logits."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        out = super().forward(input_ids, attention_mask, **kwargs)
        return type(out)(logits=out.logits, predicted_mask=out.logits[..., :1])


class Put(DreamModel):
    """The same, put on what the family gives."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        out = super().forward(input_ids, attention_mask, **kwargs)
        out.predicted_mask = out.logits[..., :1]
        return out


class Keyed(DreamModel):
    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        out = super().forward(input_ids, attention_mask, **kwargs)
        out["predicted_mask"] = out.logits[..., :1]
        return out


class Mapping(DreamModel):
    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        logits = super().forward(input_ids, attention_mask, **kwargs).logits
        return {"logits": logits, "predicted_mask": logits[..., :1]}


class Asked(DreamModel):
    """A further argument."""

    def forward(self, input_ids=None, attention_mask=None, noise_level=None, **kwargs):
        return super().forward(input_ids, attention_mask, **kwargs)


class Same(DreamModel):
    """A fork whose forward has nothing more."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        kept = super().forward(input_ids, attention_mask, **kwargs)
        scale = kept.logits.new_ones(())
        scale.unused = None  # an entry of another object
        return kept


class Trained(DreamModel):
    """A forward that gives a loss as well, whose arguments are no outputs."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        out = super().forward(input_ids, attention_mask, **kwargs)
        if labels is not None:
            out.loss = self.loss_function(logits=out.logits, labels=labels, vocab_size=320)
        return out


class Gate(nn.Module):
    def forward(self, x):
        return x * 0.5


FORKS = {Made: "outputs", Put: "outputs", Keyed: "outputs", Mapping: "outputs", Asked: "arguments"}


@pytest.mark.parametrize("fork", FORKS)
def test_a_forward_that_has_more(dream, ids, fork):
    plain = dpad.generate(dream, ids, **PLAIN)
    dream.__class__ = fork
    name = "noise_level" if fork is Asked else "predicted_mask"
    said = f"the {FORKS[fork]} of {fork.__name__}.forward: {name}"
    with pytest.raises(UnsupportedModelError, match=f"{said}: pass strict=False"):
        dpad.patch(dream)
    assert name in dpad.supports(dream).reason
    with dpad.patch(dream, strict=False) as handle:
        assert any(said in note for note in handle.notes) and said in repr(handle)
        assert torch.equal(dream.generate(ids, **PLAIN), plain)


@pytest.mark.parametrize("fork", [Same, Trained])
def test_a_forward_that_has_no_more(dream, fork):
    dream.__class__ = fork
    with dpad.patch(dream) as handle:
        assert not handle.notes


@pytest.mark.parametrize("place", ["", "model.layers.1", "model.layers.1.self_attn", "model"])
def test_a_submodule_without_weights(dream, ids, place):
    owner, name = dream.get_submodule(place), f"{place}.gate".lstrip(".")
    owner.gate = nn.Sequential(Gate(), nn.Dropout())
    with pytest.raises(UnsupportedModelError, match=f"does not run {name}: pass strict=False"):
        dpad.patch(dream)
    with dpad.patch(dream, strict=False) as handle:
        assert f"dpad's forward does not run {name}" in handle.notes
        dream.generate(ids, **PLAIN)
    owner.gate = nn.Sequential(nn.Dropout(0.1), nn.Identity(), nn.ModuleList())
    dpad.patch(dream).remove()


@pytest.mark.parametrize("model", ["llada", "dream"])
def test_the_released_models_have_nothing_more(request, model):
    assert forks.left_out(find_adapter(request.getfixturevalue(model))) == []


def test_neither_have_those_of_remote_code(weights, monkeypatch):
    cure(dream_stock, monkeypatch)
    dream = dream_stock.DreamModel(dream_stock.DreamConfig(**DREAM["config"])).float().eval()
    llada = remote.llada_model(META["config"], 2, weights)
    assert forks.left_out(find_adapter(llada)) == forks.left_out(find_adapter(dream)) == []


@pytest.mark.parametrize("name", SMALL)
def test_neither_have_those_of_other_families(name):
    assert forks.left_out(find_adapter(small(name))) == []
