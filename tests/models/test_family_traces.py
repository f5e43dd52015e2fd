"""Published decoders' commits follow from the forward of the golden weights, greedy as they are."""

import json

import pytest
import torch

import dpad
from dpad.models.adapter import find_adapter
from tests.generation.common import GOLDEN
from tests.models.families import golden

SUITES = {
    "sdar": ("SDARForCausalLM", "sdar_gqa"),
    "rnd1": ("RND1LM", "rnd1"),
    "fastdllm_v2": ("Fast_dLLM_QwenForCausalLM", "fastv2_gqa"),
}
BLOCK = ("block_length", "dllm_block_length", "block_size")


def traces():
    """Greedy ones, whose cached rows are those of the whole canvas; with a stop id, commits right
    of it are left out of the traces and not of the canvas.
    """
    for suite, model in SUITES.items():
        for trace in json.loads((GOLDEN / f"{suite}.json").read_text())["traces"]:
            given = {n for n, value in trace["settings"].items() if value}
            if not given & {"torch_seed", "use_block_cache", "pick_stop"}:
                yield pytest.param(trace, *model, id=trace["id"])


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("trace, name, file", traces())
def test_commits_follow_from_the_forward(trace, name, file, patched):
    model = golden(name, file)
    canvas, seen = [torch.tensor(row) for row in trace.get("canvas", trace["prompt"])], 0
    block = next((trace["settings"][n] for n in BLOCK if n in trace["settings"]), len(canvas[0]))
    if model.config.block_length is not None:
        setattr(model.config, "bd_size" if "Fast" in name else "block_size", block)
    shift = find_adapter(model).shift
    if patched:
        dpad.patch(model)
    for step in trace["steps"]:
        for row, place, token in step["commit"]:
            # An autoregressive token comes with the pass of the block before.
            end = place if step["f"] in ("prefill", "store") else (place // block + 1) * block
            fed = torch.full((end,), 311)
            fed[: len(canvas[row])] = canvas[row][:end]
            with torch.no_grad():
                found = model(fed[None]).logits[0, place - shift].argmax()
            assert found == token, (step, place)
            seen += 1
        for row, place, token in step["commit"]:
            longer = torch.full((max(len(canvas[row]), place + 1),), 311)
            longer[: len(canvas[row])] = canvas[row]
            longer[place] = token
            canvas[row] = longer
    assert seen > 10
