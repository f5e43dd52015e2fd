"""The published decoders of SDAR and Fast-dLLM v2, token for token and pass for pass."""

import json

import pytest
import torch

import dpad
from tests.generation.common import GOLDEN, pad
from tests.generation.test_block_decoding import load

MASK_ID, PAD_ID = 311, 300
MODES = {
    "sdar": "sdar",
    "sdar_eval": "sdar-eval",
    "sdar_engine": "jetengine",
    "sdar_lmdeploy": "lmdeploy",
    "fastdllm_v2": "fast-dllm-v2",
    "fastdllm_v2_batch": "fast-dllm-v2-batch",
}
FAMILY = {"sdar_gqa": "sdar", "fastv2_gqa": "fastdllm_v2"}


def traces():
    for name in ("sdar", "fastdllm_v2"):
        for trace in json.loads((GOLDEN / f"{name}.json").read_text())["traces"]:
            yield pytest.param(trace, id=trace["id"])


def first(settings, *names):
    return next((settings[n] for n in names if settings.get(n) is not None), None)


def options(trace):
    """Our options for the reference's settings."""
    settings, suite = trace["settings"], trace["suite"]
    new = first(settings, "gen_length", "max_new_tokens", "max_tokens")
    block = first(settings, "block_length", "dllm_block_length", "block_size")
    given = {
        "max_new_tokens": new,
        "block_length": block,
        "temperature": settings.get("temperature", 0.0),
        "top_k": first(settings, "top_k", "topk") or None,
        "top_p": settings.get("top_p"),
        "compatible": MODES[suite],
        "early_stop": bool(trace["stop_ids"]),
    }
    if suite.startswith("fastdllm"):
        given["sub_block_length"] = settings["small_block_size"]
        given["cache"] = "dual" if settings["use_block_cache"] else "prefix"
        return {**given, "threshold": settings["threshold"]}
    return {**given, **rule(settings, -(-new // block))}


def rule(settings, blocks):
    """The commit rule of SDAR's decoders; their steps are those of a block."""
    steps = blocks * first(settings, "denoising_steps", "dllm_denoising_steps")
    strategy = first(settings, "remasking_strategy", "dllm_unmasking_strategy")
    threshold = first(
        settings,
        "confidence_threshold",
        "dynamic_threshold",
        "dllm_confidence_threshold",
        "threshold",
    )
    if strategy is None:  # SDAR's evaluation: a threshold of 1 is the fixed quota
        strategy = "low_confidence_" + ("static" if threshold == 1.0 else "dynamic")
    if strategy == "sequential":
        return {"steps": steps, "alg": "sequential"}
    if strategy == "entropy_bounded":
        return {"steps": steps, "entropy_bound": settings["eb_threshold"]}
    if strategy == "low_confidence_static":
        return {"steps": steps}
    if "dllm_denoising_steps" in settings:
        return {"confidence_threshold": threshold}
    return {"steps": steps, "confidence_threshold": threshold, "alg": "low_confidence_dynamic"}


def supplied_noise(trace):
    """Noise that makes the reference's own draws win, or None."""
    draws, filled = [], set()
    for step in trace["steps"]:
        if step["commit"] or "x0" in step:
            draws.append((set(filled), step.get("x0")))
        filled |= {position for _, position, _ in step["commit"]}
    if all(drawn is None for _, drawn in draws):
        return None
    draws = iter(draws)

    def noise(rows, positions, vocab):
        made = torch.zeros(positions.shape[0], vocab, dtype=torch.float64)
        before, drawn = next(draws)
        if drawn is not None:  # else it is an autoregressive token
            masked = [i for i, p in enumerate(positions.tolist()) if p not in before]
            made[masked, drawn] = 1e6
        return made

    return noise


@pytest.fixture(scope="module")
def models():
    return {name: load(kind) for name, kind in FAMILY.items()}


# The published program rebuilds the sub-block caches of all rows together.
COUPLED = ("fastdllm_v2_batch/011", "fastdllm_v2_batch/017", "fastdllm_v2_batch/021")


@pytest.mark.parametrize("trace", traces())
def test_published_trace(models, trace):
    if trace["id"] in COUPLED:
        rows = len(trace["prompt"])
        told = (
            f"compatible = 'fast-dllm-v2-batch' and cache = 'dual' with {rows} rows: .* caches of "
            "all rows together, so that a row depends on its batch; take cache='prefix', or one row"
        )
        with pytest.raises(ValueError, match=told):
            replay(models[trace["model"]], trace)
        return
    replay(models[trace["model"]], trace)


@pytest.mark.parametrize("trace", [t for t in traces() if t.values[0]["id"] in COUPLED])
def test_rows_of_a_coupled_batch_one_by_one(models, trace):
    """They are taken alone, and by an engine, whose rows do not depend on each other."""
    model, given = models[trace["model"]], {**options(trace), "mask_id": MASK_ID}
    given |= {"eos_token_id": trace["stop_ids"] or [PAD_ID], "pad_token_id": PAD_ID}
    with dpad.Engine(model, max_sequences=4, max_tokens=1024) as engine:
        requests = [engine.submit(prompt, **given) for prompt in trace["prompt"]]
        together = [request.result().sequences.tolist() for request in requests]
    alone = [dpad.generate(model, [prompt], **given).tolist() for prompt in trace["prompt"]]
    assert together == alone
    assert not any(MASK_ID in row for (row,) in alone)


def replay(model, trace, **changes):
    """Decodes as the trace asks, and compares canvas, passes and commits."""
    prompts = trace["prompt"]
    ids, mask = pad(prompts, "left", PAD_ID)
    with dpad.patch(model):
        out = model.generate(
            ids,
            attention_mask=mask,
            mask_id=MASK_ID,
            eos_token_id=trace["stop_ids"] or [PAD_ID],
            pad_token_id=PAD_ID,
            trace=True,
            confidences=None,
            noise=supplied_noise(trace),
            **{**options(trace), **changes},
        )
    for row, (prompt, final) in enumerate(zip(prompts, trace["final"], strict=True)):
        found = out.sequences[row, ids.shape[1] - len(prompt) :].tolist()
        assert found[: len(final)] == final
    assert commits_of(out, trace) == commits_of_reference(trace)
    check_passes(out, trace)


def check_passes(out, trace):
    """Those of every row; the published batches run rows in passes that these do not need."""
    if not trace["suite"].endswith("batch"):
        per_row = [0] * len(trace["prompt"])
        for step in trace["steps"]:
            for row in step.get("rows", range(len(per_row))):
                per_row[row] += 1
        assert out.forwards.tolist() == per_row


def commits_of(out, trace):
    """Per row, per committing pass: sorted [position, token], up to the stop."""
    steps = {}
    for event in out.trace.events:
        stop = trace["stop_at"][event["row"]]
        cut = stop if trace["suite"].startswith("fastdllm") else None
        pairs = sorted(
            [p, t]
            for p, t in zip(event["positions"], event["tokens"], strict=True)
            if cut is None or p <= cut
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
