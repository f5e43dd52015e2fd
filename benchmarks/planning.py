"""What the host does in the plan of a step, part by part.

    python -m benchmarks.planning [--requests 96] [--rounds 9]

The shipped model answers prompts by `generate(micro_batch=8)`, as in `benchmarks.engine`. Each part
is timed where it happens, behind a forward, and at once again with the same arguments, warm: the
median of five. Microseconds of a step are means, the median over rounds.
"""

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import contextmanager
from unittest import mock

import dpad
from benchmarks.engine import CANVAS, demo_prompts
from benchmarks.report import table
from dpad.decode import canvas, controls, decoder, plan, runner

# Part -> where it stands; each gives the same when it is called again.
PARTS = {
    "canvases of new sequences": (canvas.Canvas, "load"),
    "suffix of new blocks": (decoder, "draw_suffix"),
    "who shares a pass": (runner, "batches_of"),
    "rows of the pass": (plan.Planner, "_build"),
    "draws, thresholds, quotas": (controls.Controller, "of"),
}
AGAIN = 5


def twice(function, found):
    """`function`, which adds the seconds of a call and those of a warm one to two lists."""

    def timed(*args):
        begun = time.perf_counter()
        result = function(*args)
        spent = [time.perf_counter() - begun]
        for _ in range(AGAIN):
            begun = time.perf_counter()
            function(*args)
            spent.append(time.perf_counter() - begun)
        found[0].append(spent[0])
        found[1].append(statistics.median(spent[1:]))
        return result

    return timed


@contextmanager
def watched(found):
    """Within it the parts of a plan are timed; `found`: part -> two lists."""
    patches = [
        mock.patch.object(owner, name, twice(getattr(owner, name), found[part]))
        for part, (owner, name) in PARTS.items()
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def measure(requests, rounds):
    """Part -> (microseconds of a step in place, warm, calls by steps); the plan as a whole, too."""
    model, tokenizer = dpad.demo.load()
    prompts = demo_prompts(tokenizer, requests)
    texts = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    options = {"micro_batch": 8, "return_dict_in_generate": True, **CANVAS}
    rows = defaultdict(list)
    for number in range(rounds + 1):
        found = defaultdict(lambda: ([], []))
        with watched(found):
            steps = dpad.generate(model, **texts, **options).timings["passes"]
        whole = dpad.generate(model, **texts, **options).timings["plan"]
        if number:  # the first round warms up
            rows["the whole plan"].append((1e6 * whole / steps, float("nan"), 1.0))
            for part, (cold, warm) in found.items():
                each = 1e6 * sum(cold) / steps, 1e6 * sum(warm) / steps, len(cold) / steps
                rows[part].append(each)
    return {
        part: [statistics.median(column) for column in zip(*of_rounds, strict=True)]
        for part, of_rounds in rows.items()
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args(arguments)
    found = measure(chosen.requests, chosen.rounds)
    lines = [
        (part, f"{cold:.0f}", "" if warm != warm else f"{warm:.0f}", f"{calls:.2f}")
        for part, (cold, warm, calls) in found.items()
    ]
    print(table(("part", "us of a step, in place", "warm", "calls of a step"), lines))


if __name__ == "__main__":
    main()
