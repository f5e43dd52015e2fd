"""RND1's published sampler, token for token and pass for pass; rules known by hand."""

import json

import pytest
import torch

import dpad
from dpad.decode.commit import fixed_quota
from dpad.decode.schedule import Schedule
from tests.generation.common import GOLDEN
from tests.models.families import golden

MASK_ID = 311


def traces():
    for trace in json.loads((GOLDEN / "rnd1.json").read_text())["traces"]:
        if trace["suffix"] is None:
            yield pytest.param(trace, id=trace["id"])


def options(trace):
    """Our options for the reference's settings."""
    settings, sample = trace["settings"], trace["settings"].get("entry") == "sample"
    given = {
        "compatible": "rnd1-sample" if sample else "rnd1",
        "max_new_tokens": settings["seq_len"] - 1 if sample else settings["max_new_tokens"],
        "steps": settings["num_steps"] if sample else settings["num_diffusion_steps"],
        "temperature": settings.get("temperature", 1.0),
        "top_k": settings.get("top_k"),
        "top_p": settings.get("top_p"),
        "entropy_bound": settings.get("eb_gamma"),
    }
    # The place that is kept holds an end token on request.
    given["pad_token_id"] = trace["eos_id" if settings.get("add_eos_at_end") else "pad_id"]
    return {name: value for name, value in given.items() if value is not None}


def supplied_noise(trace):
    """The published draws as Gumbel noise, a row's number being that of the row that predicts it;
    none where the best id is taken, whatever the temperature.
    """
    settings = trace["settings"]
    if settings["greedy"]:
        return lambda rows, positions, vocab: torch.zeros(len(positions), vocab).double()
    generator = torch.Generator().manual_seed(settings["torch_seed"])
    width = len(trace["canvas"][0])

    def noise(rows, positions, vocab):
        uniform = torch.rand(width, vocab, dtype=torch.float64, generator=generator)
        return -torch.log(-torch.log(uniform[positions - 1]))

    return noise


@pytest.mark.parametrize("trace", traces())
def test_published_trace(trace):
    prompt = trace["prompt"] if trace["prompt"] != [[]] else [trace["canvas"][0][:1]]
    model = golden("RND1LM", "rnd1")
    with dpad.patch(model):
        out = model.generate(
            prompt,
            mask_token_id=MASK_ID,
            eos_token_id=trace["eos_id"],
            trace=True,
            noise=supplied_noise(trace),
            **options(trace),
        )
    assert out.sequences.tolist() == trace["final"]
    assert out.forwards.tolist() == [trace["forwards"]]
    found = [sorted(zip(e["positions"], e["tokens"], strict=True)) for e in out.trace.events]
    wanted = [sorted((p, t) for _, p, t in step["commit"]) for step in trace["steps"]]
    assert found == wanted


def generate(prompts, **changes):
    options = {"compatible": "rnd1", "max_new_tokens": 13, "temperature": 0.0, "trace": True}
    ids = {"mask_token_id": MASK_ID, "eos_token_id": 300, "pad_token_id": 302}
    return dpad.generate(golden("RND1LM", "rnd1"), prompts, **{**options, **ids, **changes})


def test_steps_leave_their_share_rounded_down_in_float32():
    for masks, steps, left, wanted in ((108, 12, 7, 62), (95, 19, 3, 14), (96, 16, 5, 30)):
        schedule = Schedule(fixed_quota(steps, schedule="share"), [masks])
        assert schedule._left(0, steps - left) == wanted
        each = [schedule._left(0, i) - schedule._left(0, i + 1) for i in range(steps)]
        assert sum(each) == masks and min(each) >= 0


def test_steps_without_a_share_take_a_forward():
    out = generate([[5, 6, 7]], steps=50)
    assert out.forwards.tolist() == [46]  # 12 * 4 / 50 leaves none
    assert sum(bool(event["positions"]) for event in out.trace.events) == 12
    assert out.sequences[0, -1] == 302


@pytest.mark.parametrize("rule", [{"entropy_bound": 4.0}, {"entropy_bound": 4.0, "steps": 3}])
def test_a_row_of_a_batch_is_as_it_is_alone(rule):
    prompts = [list(range(first, first + 4 + first)) for first in (3, 7, 20)]
    together = generate(prompts, **rule)
    for row, prompt in enumerate(prompts):
        alone = generate([prompt], **rule)
        width = alone.sequences.shape[1]
        assert together.sequences[row, -width:].tolist() == alone.sequences[0].tolist()
        assert together.forwards[row] == alone.forwards[0]
    assert len(set(together.forwards.tolist())) > 1 or "steps" in rule
    assert max(together.forwards) <= rule.get("steps", 12)


@pytest.mark.parametrize("bound", [0.0, 1e6])
def test_bounds_of_nothing_and_of_everything(bound):
    assert generate([[5, 6, 7]], entropy_bound=bound).forwards.tolist() == [1 if bound else 12]


def test_what_is_refused():
    with pytest.raises(ValueError, match="max_new_tokens = 1: compatible = 'rnd1' keeps"):
        generate([[5, 6]], max_new_tokens=1)
    with pytest.raises(ValueError, match="different commit rules"):
        generate([[5, 6]], compatible=None, steps=4, entropy_bound=1.0)
    with pytest.raises(ValueError, match="'rnd1' is for full attention"):
        model = golden("SDARForCausalLM", "sdar_gqa")
        dpad.generate(model, [[5, 6]], compatible="rnd1", mask_token_id=MASK_ID, eos_token_id=300)
