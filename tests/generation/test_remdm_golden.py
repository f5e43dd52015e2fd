"""ReMDM's published sampler, token for token, with its own draws."""

import json

import pytest
import torch
from safetensors.torch import load_file

import dpad
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from tests.generation.common import GOLDEN, MASK_ID

pytestmark = pytest.mark.once

TRACES = json.loads((GOLDEN / "remdm.json").read_text())["traces"]
SETTINGS = ("eta", "alpha_on", "t_on", "t_off")


def load(name):
    config = json.loads((GOLDEN / f"{name}.config.json").read_text())["config"]
    model = LLaDAModelLM(LLaDAConfig(**config)).float().eval()
    weights = load_file(GOLDEN / f"{name}.safetensors")
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    return model


class Draws:
    """The uniform numbers of the published program, [batch, length, vocab] in each step."""

    def __init__(self, settings):
        self.shape = settings.get("batch", 1), settings["length"]
        self.generator = torch.Generator().manual_seed(settings["torch_seed"])

    def __call__(self, rows, positions, vocab):
        u = torch.rand(*self.shape, vocab, dtype=torch.float64, generator=self.generator)
        row = torch.tensor(rows).repeat_interleave(len(positions) // len(rows))
        return -torch.log(1e-10 - torch.log(u[row, positions] + 1e-10))


def options(settings):
    """Our options for the reference's settings."""
    given = {"temperature": 1.0, "top_p": settings["nucleus_p"], "steps": settings["steps"]}
    given |= {"max_new_tokens": settings["length"], "block_length": settings["length"]}
    given |= {"suffix": "all", "cache": "none", "early_stop": False, "mask_token_id": MASK_ID}
    kind = settings["sampler"].removeprefix("remdm-")
    if kind == "mdlm":
        return {**given, "alg": "ancestral"}
    chosen = {name: settings[name] for name in SETTINGS if name in settings}
    return {**given, "remask": dpad.Remask(kind, **chosen)}


def replay(trace):
    settings = trace["settings"]
    ids = torch.zeros(settings.get("batch", 1), 0, dtype=torch.int64)
    history = []

    def seen(model, step, timestep, tensors):
        history.append(tensors["block"].clone())
        return {}

    out = dpad.generate(
        load(trace["model"]),
        ids,
        noise=Draws(settings),
        callback_on_step_end=seen,
        return_dict_in_generate=True,
        **options(settings),
    )
    return out, history


@pytest.mark.parametrize("trace", [pytest.param(t, id=t["id"]) for t in TRACES])
def test_published_trace(trace):
    out, history = replay(trace)
    assert out.sequences.tolist() == trace["final"]
    steps = trace["steps"]
    canvas = torch.full_like(history[0], MASK_ID)
    for step, block in zip(steps, history, strict=False):
        for row, position, token in step["commit"]:
            canvas[row, position] = token
        assert torch.equal(canvas, block)
    assert not any(step["commit"] for step in steps[len(history) :])
    if trace["settings"]["sampler"] != "mdlm":  # which ends as soon as no mask is left
        assert len(history) >= trace["settings"]["steps"]
