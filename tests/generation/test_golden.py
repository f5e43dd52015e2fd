"""The published LLaDA decoders, token for token, through the public interface."""

import json

import pytest
import torch

import dpad
from tests.generation.common import GOLDEN, MASK_ID

SUITES = {
    "llada": "llada",
    "fastdllm_llada": "fast-dllm-llada",
    "baseline_llada": "fast-dllm-llada",
    "dpad_llada": "dpad-llada",
}
# Options of the references that have no counterpart yet.
MISSING = ("cfg_scale", "remasking")


def traces():
    for suite in SUITES:
        for trace in json.loads((GOLDEN / f"{suite}.json").read_text())["traces"]:
            yield pytest.param(trace, id=trace["id"])


def options(trace):
    """Our options for the reference's settings."""
    settings = dict(trace["settings"])
    given = {
        "gen_length": settings["gen_length"],
        "block_length": settings["block_length"],
        "cache": settings.get("mode") or "none",
        "early_termination": bool(settings.get("early_termination", False)),
        "eos_id": trace["eos_id"],
        "compatible": SUITES[trace["suite"]],
    }
    for name in ("threshold", "factor"):
        if settings.get(name) is not None:
            return {**given, name: settings[name]}
    return {**given, "steps": settings["steps"]}


@pytest.mark.parametrize("trace", traces())
def test_published_trace(llada, trace):
    missing = [name for name in MISSING if trace["settings"].get(name) not in (None, 0, 0.0)]
    if missing:
        pytest.skip(f"{missing[0]} is not offered yet")
    with dpad.patch(llada):
        out = llada.generate(
            torch.tensor(trace["prompt"]),
            attention_mask=trace["attention_mask"],
            mask_id=MASK_ID,
            kept_suffix=trace["kept"],
            trace=True,
            **options(trace),
        )
    pads = trace["settings"].get("pads") or [0] * len(trace["prompt"])
    assert out.sequences.tolist() == trace["final"]
    assert int(out.forwards.max()) == trace["forwards"] - trace["idle_forwards"]
    assert commits_of(out, pads) == commits_of_reference(trace)


def commits_of(out, pads):
    """Per row, per committing forward: sorted [position, token]."""
    steps = {}
    for event in out.trace.events:
        pairs = sorted(
            [p + pads[event["row"]], t]
            for p, t in zip(event["positions"], event["tokens"], strict=True)
        )
        if pairs:
            steps.setdefault(event["row"], []).append(pairs)
    return steps


def commits_of_reference(trace):
    steps = {}
    for step in trace["steps"]:
        rows = {}
        for row, position, token in step["commit"]:
            rows.setdefault(row, []).append([position, token])
        for row, pairs in rows.items():
            steps.setdefault(row, []).append(sorted(pairs))
    return steps
