"""docs/migration.md: every row runs, and published settings decode as published through it."""

import re
from pathlib import Path

import pytest
import torch

import dpad
from tests.generation.common import MASK_ID
from tests.generation.test_golden import (
    SUITES,
    commits_of,
    commits_of_reference,
    supplied_confidences,
    traces,
)
from tests.models.families import golden

pytestmark = pytest.mark.once

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
# Section -> (model, compatible mode of its rows).
SECTIONS = {
    "LLaDA": ("llada", "llada"),
    "Fast-dLLM, LLaDA": ("llada", "fast-dllm-llada"),
    "DPad, LLaDA": ("llada", "dpad-llada"),
    "Dream": ("dream", "dream"),
    "Fast-dLLM, Dream": ("dream", "fast-dllm-dream"),
    "DPad, Dream": ("dream", "dpad-dream"),
    "SDAR": ("sdar", "sdar"),
    "Fast-dLLM v2": ("fastdllm_v2", "fast-dllm-v2"),
    "RND1": ("rnd1", "rnd1"),
    "BD3-LM": ("bd3lm", "bd3lm"),
    "d2Cache's harness": ("llada", None),
}
# Of those whose models have golden weights alone: class and file.
CLASSES = {
    "sdar": ("SDARForCausalLM", "sdar_gqa"),
    "fastdllm_v2": ("Fast_dLLM_QwenForCausalLM", "fastv2_gqa"),
    "rnd1": ("RND1LM", "rnd1"),
    "bd3lm": ("BD3LM", "bd3lm"),
}
# Suite of traces -> the sections that its settings are looked up in.
PAGES = {
    "llada": ("LLaDA",),
    "fastdllm_llada": ("Fast-dLLM, LLaDA",),
    "baseline_llada": ("Fast-dLLM, LLaDA", "DPad, LLaDA"),
    "dpad_llada": ("DPad, LLaDA",),
    "dream": ("Dream",),
    "fastdllm_dream": ("Fast-dLLM, Dream",),
    "fastdllm_dream_block": ("Fast-dLLM, Dream",),
    "dpad_dream": ("DPad, Dream",),
}
MODES = {
    "none": {"use_cache": False},
    "prefix": {"use_cache": True},
    "dual": {"use_cache": True, "dual_cache": True},
}


def rows(section):
    """(there, here) of a section's table, as text."""
    body = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    text = next(part for part in body if part.startswith(f"{section}\n"))
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", text, flags=re.MULTILINE)


def read(arguments):
    """Keyword arguments, as text, as a dict."""
    return eval(f"dict({arguments})", {"dpad": dpad})


def every_row(more=False):
    for section, (name, _) in SECTIONS.items():
        for there, here in rows(section):
            if (name in CLASSES) is more:
                yield pytest.param(section, here, id=f"{section}: {there}")


def test_every_section_is_tested():
    titles = re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    assert titles == list(SECTIONS)
    assert all(len(rows(section)) >= 10 for section in SECTIONS)
    tables = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(tables) == sum(len(rows(section)) for section in SECTIONS)


@pytest.mark.parametrize("section, here", every_row())
def test_every_row_runs(request, section, here):
    name, compatible = SECTIONS[section]
    base = dpad.DPadGenerationConfig(
        compatible=compatible, max_new_tokens=64, block_length=32, steps=64, seed=0
    )
    given = read(here)
    out = dpad.generate(
        request.getfixturevalue(name),
        torch.tensor([[5, 9, 17, 3]]),
        generation_config=base,
        **{"mask_token_id": MASK_ID, "return_dict_in_generate": True, **given},
    )
    assert out.sequences.shape[1] == 4 + given.get("max_new_tokens", 64)
    assert not (out.sequences == given.get("mask_token_id", MASK_ID)).any()


@pytest.mark.parametrize("section, here", every_row(more=True))
def test_every_row_of_the_other_families_runs(section, here):
    name, compatible = SECTIONS[section]
    given, block = read(here), None if name == "rnd1" else 16
    options = {"max_new_tokens": 64, "mask_token_id": 311, "early_stop": False, "seed": 0}
    if name == "sdar" and not {"alg", "confidence_threshold", "entropy_bound"} & set(given):
        options["alg"] = "maskgit_plus"
    if name == "sdar" and "confidence_threshold" not in given and "entropy_bound" not in given:
        options["steps"] = 16
    if "entropy_bound" not in given and name == "rnd1":
        options["steps"] = 16
    if name == "bd3lm":
        options |= {"mask_token_id": 319, "eos_token_id": 300}
    if block:
        options["block_length"] = block
    out = dpad.generate(
        golden(*CLASSES[name]), torch.tensor([[5, 9, 17, 3]]), compatible=compatible,
        return_dict_in_generate=True, **{**options, **given},
    )  # fmt: skip
    answer = out.sequences[0, 4:]
    if name == "rnd1":
        assert len(answer) == 64 and answer[-1] == given.get("pad_token_id", 302)
    else:  # whole blocks, and v2's first token of another one
        assert len(answer) == (64 - 4 + 1 if name == "fastdllm_v2" else 80 - 4)
    mask_id = given.get("mask_token_id", options["mask_token_id"])
    assert not (answer == mask_id).any()


def translate(trace):
    """A trace's settings in our words, by the rows of its sections only."""
    found_rows = [row for section in PAGES[trace["suite"]] for row in rows(section)]
    table = [(read(there), read(here)) for there, here in found_rows]
    settings = {n: v for n, v in trace["settings"].items() if v is not None}
    for name in ("torch_seed", "pads", "pick_eos"):  # of the recording, not of the decoder
        settings.pop(name, None)
    if "mode" in settings:
        settings.update(MODES[settings.pop("mode")])
    if settings.get("dual_cache"):
        settings["use_cache"] = True  # one implies the other there
    elif "dual_cache" in settings:
        settings.setdefault("use_cache", True)
        del settings["dual_cache"]
    if settings.get("alg", "confidence_threshold") != "confidence_threshold":
        settings.pop("threshold", None)  # has no effect there
    if ("threshold" in settings or "factor" in settings) and "block_length" in settings:
        settings.pop("steps", None)  # "leave it out"
    found = {}
    for there, here in sorted(table, key=lambda row: -len(row[0])):
        if not set(there) <= set(settings):
            continue
        words = [n for n, v in there.items() if isinstance(v, (str, bool))]
        if any(settings[n] != there[n] for n in words):
            continue
        values = {there[n]: settings.pop(n) for n in list(there)}
        found.update({n: values.get(v, v) if n not in words else v for n, v in here.items()})
        if "suffix" in here and here["suffix"].kind in ("gaussian", "uniform"):
            found["suffix"] = None  # kept sets are supplied, as recorded
    assert not settings, f"{trace['id']}: no row of the page has {settings}"
    return found


@pytest.mark.parametrize("trace", traces())
def test_published_settings_by_the_page(request, trace):
    given = translate(trace)
    supplied = {"kept_suffix": trace["kept"], "confidences": supplied_confidences(trace)}
    if trace["kept"] is None:
        given["suffix"] = dpad.Suffix("all")
    if trace["suite"] == "fastdllm_dream" or trace["settings"].get("use_cache") is False:
        given.setdefault("cache", "none")
    with dpad.patch(request.getfixturevalue(trace["model"].split("_")[0])) as handle:
        out = handle.model.generate(
            torch.tensor(trace["prompt"]),
            attention_mask=trace["attention_mask"],
            mask_token_id=MASK_ID,
            eos_token_id=trace["eos_id"],
            trace=True,
            top_k=trace["effective_top_k"],
            **supplied,
            **{"compatible": SUITES[trace["suite"]], **given},
        )
    assert out.sequences.tolist() == trace["final"]
    pads = trace["settings"].get("pads") or [0] * len(trace["prompt"])
    assert commits_of(out, pads) == commits_of_reference(trace)
