"""DAEDAL's published program, token for token, its growth and insertions included."""

import json

import pytest
import torch
from safetensors.torch import load_file

import dpad
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from tests.generation.common import GOLDEN, MASK_ID

FIELDS = {
    "initial_gen_length": "initial_length",
    "expansion_factor": "expansion",
    "eos_check_tokens": "window",
    "eos_confidence_threshold": "end_confidence",
    "low_conf_threshold": "low_confidence",
    "expand_eos_confidence_threshold": "expand_below",
}
NAMES = {
    "max_gen_length": "max_new_tokens",
    "block_length": "block_length",
    "high_conf_threshold": "confidence_threshold",
    "temperature": "temperature",
    "cfg_scale": "cfg_scale",
}


def traces():
    for trace in json.loads((GOLDEN / "daedal.json").read_text())["traces"]:
        yield pytest.param(trace, id=trace["id"])


def load(name):
    fields = json.loads((GOLDEN / f"{name}.config.json").read_text())["config"]
    model = LLaDAModelLM(LLaDAConfig(**fields)).float().eval()
    model.load_state_dict(
        {k: v.float() for k, v in load_file(GOLDEN / f"{name}.safetensors").items()}
    )
    return model


def options(trace):
    """Our options for the reference's settings; what it leaves open is left open."""
    settings = trace["settings"]
    given = {ours: settings[theirs] for theirs, ours in NAMES.items() if theirs in settings}
    growth = {ours: settings[theirs] for theirs, ours in FIELDS.items() if theirs in settings}
    if growth:
        given["length"] = growth
    return {"compatible": "daedal", "eos_token_id": trace["eos_id"], **given}


def supplied_noise(trace):
    """The published draws as Gumbel noise, one tensor for each pass of the second stage."""
    seed = trace["settings"].get("torch_seed")
    if seed is None:
        return None
    generator, rows = torch.Generator().manual_seed(seed), len(trace["prompt"])
    widths = [step["w"] for step in trace["steps"] if step["stage"] == 2]
    draws = [torch.rand(rows, w, 320, generator=generator).double() for w in widths]
    taken = [0] * rows

    def noise(rows, positions, vocab):
        ends = (positions.diff() <= 0).nonzero()[:, 0] + 1  # one run of positions for each row
        made = []
        for row, at in zip(rows, positions.tensor_split(ends.tolist()), strict=True):
            made.append(-torch.log(-torch.log(draws[taken[row]][row, at])))
            taken[row] += 1
        return torch.cat(made)

    return noise


def as_fed(event, later):
    """The positions of an event on the canvas that its forward saw; `later`: runs of all changes
    since, oldest first.
    """
    positions = event["positions"]
    for runs in reversed(later):
        source = [
            p for first, n in runs for p in (range(first, first + n) if first >= 0 else [-1] * n)
        ]
        positions = [source[p] for p in positions]
    return positions


def steps_of(out, rows):
    """Per row: (committed [position, token], inserted [position, count]) of each pass."""
    found = [[] for _ in range(rows)]
    for row in range(rows):
        events = [e for e in out.trace.events if e["row"] == row]
        for i, event in enumerate(events):
            later = [e["canvas"] for e in events[i:] if "canvas" in e]
            commits = sorted(
                [p, t] for p, t in zip(as_fed(event, later), event["tokens"], strict=True)
            )
            new, at = [], 0
            for first, count in event.get("canvas", []):
                if first < 0:
                    new.append([at, count])
                at += count
            found[row].append((commits, new))
    return found


@pytest.mark.parametrize("trace", traces())
@pytest.mark.filterwarnings("ignore:input_ids. row")
def test_published_trace(trace):
    with dpad.patch(load(trace["model"])) as handle:
        out = handle.model.generate(
            trace["prompt"],
            mask_token_id=MASK_ID,
            trace=True,
            noise=supplied_noise(trace),
            **options(trace),
        )
    for row, final in enumerate(trace["final"]):
        assert out.sequences[row, : len(final)].tolist() == final
    found, stages = steps_of(out, len(trace["prompt"])), []
    for stage in (1, 2):
        steps = [step for step in trace["steps"] if step["stage"] == stage]
        for row in range(len(found)):
            wanted = [
                (
                    sorted([p, t] for r, p, t in step["commit"] if r == row),
                    [[p, n] for r, p, n in step["insert"] if r == row],
                )
                for step in steps
            ]
            stages.append((stage, row, wanted))
    for row, of_row in enumerate(found):
        first, second = (w for _, r, w in stages if r == row)
        count = next(i for i, (_, new) in enumerate(first) if not new) + 1
        tail = [[p, n] for r, p, n in trace["eos_tail"] if r == row and n]
        assert of_row[:count] == [*first[: count - 1], ([], tail)]
        rest = of_row[count:]
        assert rest == second[: len(rest)]
        assert all(step == ([], []) for step in second[len(rest) :])
