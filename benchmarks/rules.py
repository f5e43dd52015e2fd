"""Commit rules, samplers and refinement on tasks with exact answers: accuracy, forwards, time.

    python -m benchmarks.rules [--groups rules refine] [--tasks counting dream fill sudoku]
        [--problems 200] [--planning out/planning] [--out out/rules.json]

"counting" and "dream" are the shipped models on their task. "fill" and "sudoku" are the tasks of
docs/limits.md; their models are those that `python examples/planning` leaves in --planning.
Intervals are at 95 %. Everything is decoded without a cache and with the whole suffix, so that only
the rule is approximated; each problem has its own seed.
"""

import argparse
import time
from pathlib import Path

import torch

import dpad
from benchmarks.exact_tasks import FOLDER, task_of
from benchmarks.report import table
from benchmarks.stats import paired_difference, wilson
from benchmarks.store import write_json

FULL = {"suffix": dpad.Suffix("all"), "cache": "none", "return_dict_in_generate": True}
DRAWN = {"temperature": 1.0, "top_p": 0.9}
RULES = {
    "one token per step": {"confidence_threshold": 1.1},
    "threshold 0.9": {"confidence_threshold": 0.9},
    "threshold 0.6": {"confidence_threshold": 0.6},
    "factor 1": {"factor": 1.0},
    "entropy bound 0.1": {"entropy_bound": 0.1},
    "Streaming, alpha 0.3": {"commit": dpad.rules.Streaming()},
    "Streaming, alpha 0.6": {"commit": dpad.rules.Streaming(alpha=0.6)},
    "KLASS 0.9, 0.01": {"commit": dpad.rules.Klass()},
    "KLASS 0.6, 0.01": {"commit": dpad.rules.Klass(0.6)},
    "Credit": {"commit": dpad.rules.Credit()},
    "Prophet": {"commit": dpad.rules.Prophet()},
    "LocalLeap": {"commit": dpad.rules.LocalLeap()},
    "stable prefix 0.9": {"commit": dpad.rules.StablePrefix()},
    "first hitting": {"alg": "first_hitting", **DRAWN},
    "ancestral": {"alg": "ancestral", **DRAWN},
    "ReMDM cap": {"remask": dpad.Remask("cap"), **DRAWN},
    "ReMDM conf": {"remask": dpad.Remask("conf"), **DRAWN},
    "ReMDM loop": {"remask": dpad.Remask("loop"), **DRAWN},
}
# Thresholds.
DRAFTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999, 1.1)
REFINED = {
    "snapshot 0.25": dpad.Refine(0.25),
    "snapshot 0.5": dpad.Refine(0.5),
    "posthoc 0.25": dpad.Refine(0.25, select_by="posthoc"),
    "random 0.25": dpad.Refine(0.25, select_by="random"),
    "two rounds": dpad.Refine(0.25, rounds=2),
}


def measure(task, settings):
    """Per problem whether it is right, and its forwards; seconds, and what came back the same."""
    right, forwards, same = [], [], [0, 0]
    begun = time.perf_counter()
    for number, prompt in enumerate(task.prompts):
        given = {**FULL, **task.options, **settings, "max_new_tokens": task.length(number)}
        out = dpad.generate(task.model, [prompt], seed=number, **given)
        right.append(task.right(number, out.sequences[0, len(prompt) :]))
        forwards.append(int(out.forwards[0]))
        if out.refined is not None:
            same = [a + b for a, b in zip(same, out.refined[0].tolist(), strict=True)]
    seconds = time.perf_counter() - begun
    return {"right": right, "forwards": forwards, "seconds": seconds, "refined": same}


def cells(found):
    """Accuracy with its interval, forwards and milliseconds per answer."""
    n = len(found["right"])
    low, high = wilson(sum(found["right"]), n)
    accuracy = f"{100 * sum(found['right']) / n:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return [accuracy, f"{sum(found['forwards']) / n:.1f}", f"{1000 * found['seconds'] / n:.0f}"]


def rules(task, name):
    """Every rule on one task."""
    found = {label: measure(task, settings) for label, settings in RULES.items()}
    rows = [[label, *cells(point)] for label, point in found.items()]
    print(table([name, "accuracy, %", "forwards", "ms"], rows), flush=True)
    return found


def refine(task, name):
    """Refined drafts against drafts that take no fewer forwards."""
    drafts = {t: measure(task, {"confidence_threshold": t}) for t in DRAFTS}
    found = {f"draft {t}": point for t, point in drafts.items()}
    rows = [[f"draft {t}", *cells(point), "", ""] for t, point in drafts.items()]
    cost = {t: sum(point["forwards"]) for t, point in drafts.items()}
    for label, how in REFINED.items():
        for threshold in DRAFTS[1:7:2]:
            point = measure(task, {"confidence_threshold": threshold, "refine": how})
            enough = [t for t in DRAFTS if cost[t] >= sum(point["forwards"])]
            other = min(enough, key=cost.get, default=DRAFTS[-1])
            gain = paired_difference(point["right"], drafts[other]["right"])
            masked, same = point["refined"]
            middle, low, high = (100 * x for x in gain)
            rows.append([
                f"{label} of {threshold}", *cells(point), f"{100 * same / max(masked, 1):.0f} %",
                f"{middle:+.1f} ({low:+.1f} to {high:+.1f}) to draft {other}",
            ])  # fmt: skip
            found[f"{label} of {threshold}"] = point
    head = [name, "accuracy, %", "forwards", "ms", "came back the same", "gain, points"]
    print(table(head, rows), flush=True)
    return found


GROUPS = {"rules": rules, "refine": refine}


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--groups", nargs="+", choices=tuple(GROUPS), default=list(GROUPS))
    tasks = ("counting", "dream", "fill", "sudoku")
    add("--tasks", nargs="+", choices=tasks, default=list(tasks))
    add("--problems", type=int, default=200)
    add("--planning", type=Path, default=FOLDER)
    add("--threads", type=int, default=1)
    add("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    found = {}
    for name in options.tasks:
        task = task_of(name, options)
        found[name] = {group: GROUPS[group](task, name) for group in options.groups}
    if options.out is not None:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
