"""The published decoders, token for token, through the public interface."""

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
    "dream": "dream",
    "fastdllm_dream": "dream",
    "fastdllm_dream_block": "fast-dllm-dream",
    "dpad_dream": "dpad-dream",
}
# Options that have the reference's name here.
SAME = (
    "block_length",
    "cfg_scale",
    "remasking",
    "logits_eos_inf",
    "confidence_eos_eot_inf",
    "threshold",
    "factor",
)


def traces(model="", suites=SUITES):
    """Every trace of a model whose name begins with `model`."""
    for suite in suites:
        for trace in json.loads((GOLDEN / f"{suite}.json").read_text())["traces"]:
            if not trace["model"].startswith(model):
                continue
            yield pytest.param(trace, id=trace["id"])


def cache_of(settings):
    """Our name of the reference's cache."""
    if "dual_cache" not in settings:
        return settings.get("mode") or "none"
    if not settings.get("use_cache", True):
        return "none"
    return "dual" if settings["dual_cache"] else "prefix"


def options(trace):
    """Our options for the reference's settings."""
    settings = dict(trace["settings"])
    alg = settings.get("alg", "maskgit_plus")
    if alg != "confidence_threshold" and "alg" in settings:
        settings.pop("threshold", None)
    given = {
        "max_new_tokens": settings.get("gen_length") or settings["max_new_tokens"],
        "cache": cache_of(settings),
        "alg": alg,
        "top_k": trace["effective_top_k"],
        "early_termination": bool(settings.get("early_termination", False)),
        "eos_id": trace["eos_id"],
        "compatible": SUITES[trace["suite"]],
    }
    if trace["kept"] is None:
        given["suffix"] = dpad.Suffix("all")
    given.update({n: settings[n] for n in SAME if settings.get(n) is not None})
    # In blocks a threshold takes as many steps as it needs, on the whole canvas both count.
    if ("threshold" in given or "factor" in given) and "block_length" in given:
        return given
    return {**given, "steps": settings["steps"]}


def supplied_confidences(trace):
    """The reference's own draws of random remasking or of Dream's "origin", or None."""
    draws = iter([step["rand"] for step in trace["steps"] if "rand" in step])
    settings = trace["settings"]
    if settings.get("remasking") != "random" and settings.get("alg") != "origin":
        return None

    def confidences(rows, positions, eligible):
        scores = torch.zeros(positions.shape[0], dtype=torch.float64)
        scores[eligible] = torch.tensor(next(draws), dtype=torch.float64)
        return scores

    return confidences


@pytest.mark.parametrize("trace", traces())
def test_published_trace(request, trace):
    replay(request.getfixturevalue(trace["model"].split("_")[0]), trace)


def replay(model, trace):
    """Decodes as the trace asks, and compares canvas, forwards and commits."""
    with dpad.patch(model):
        out = model.generate(
            torch.tensor(trace["prompt"]),
            attention_mask=trace["attention_mask"],
            mask_id=MASK_ID,
            kept_suffix=trace["kept"],
            confidences=supplied_confidences(trace),
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
