"""benchmarks.planning: parts that are planned again and again, and change nothing."""

from collections import defaultdict

import torch

import dpad
from benchmarks import planning
from benchmarks.engine import CANVAS, demo_prompts


def test_parts_are_timed_and_answers_stay():
    model, tokenizer = dpad.demo.load()
    prompts = demo_prompts(tokenizer, 5)
    texts = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    want = dpad.generate(model, **texts, micro_batch=2, **CANVAS)
    found = defaultdict(lambda: ([], []))
    with planning.watched(found):
        got = dpad.generate(model, **texts, micro_batch=2, **CANVAS)
    assert torch.equal(got, want)
    assert set(found) == set(planning.PARTS)
    for cold, warm in found.values():
        assert len(cold) == len(warm) > 0 and min(*cold, *warm) > 0
    assert torch.equal(dpad.generate(model, **texts, micro_batch=2, **CANVAS), want)


def test_the_table(capsys):
    planning.main(["--requests", "4", "--rounds", "1"])
    text = capsys.readouterr().out
    for part in ("the whole plan", *planning.PARTS):
        assert part in text
