"""What is to be reached on an H100, as one table, and how each goal is read from the results."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.gpu.floor import DATASHEET

FILES = ("operators", "step", "generate", "throughput", "measurements")
MODEL = "LLaDA-8B"
GRAPHS = ("step, graph", "step, graph, fused")
LONG = 8192  # keys in total from which attention can be bound by memory


class Goal(NamedTuple):
    """`read(files)` gives (value, note), or a text that says why there is no value.

    `limit` is in `unit`; `at_most` says on which side of it the goal lies; `memory` whether memory
    bounds the figure, so that another GPU's would scale with its bandwidth.
    """

    name: str
    limit: float
    unit: str
    at_most: bool
    memory: bool
    read: Callable


def measured(files, name):
    """(records that count, reasons of those that do not) of a file."""
    cases = files.get(name, {}).get("cases", [])
    good = [c for c in cases if "problem" not in c and "skipped" not in c]
    gone = [f"{c['name']}: {c.get('problem') or c['skipped']}" for c in cases if c not in good]
    return good, gone


def _cell(files, batch, keys):
    """The step's record, or why there is none."""
    good, gone = measured(files, "step")
    for case in good:
        if (case["model"], case["batch"], case["keys"]) == (MODEL, batch, keys):
            return case
    return next((text for text in gone if text.startswith(MODEL)), "no record")


def best_step(case):
    """(seconds, kind) of the faster replayed step."""
    kind = min((g for g in GRAPHS if g in case["seconds"]), key=case["seconds"].get)
    return case["seconds"][kind], kind


def step_time(keys):
    def read(files):
        case = _cell(files, 1, keys)
        if isinstance(case, str):
            return case
        took, kind = best_step(case)
        plain = case["seconds"][GRAPHS[0]]
        return 1e3 * took, f"{kind}; not fused {1e3 * plain:.2f}; floor {1e3 * case['floor']:.2f}"

    return read


def step_ratio(keys):
    def read(files):
        case = _cell(files, 1, keys)
        if isinstance(case, str):
            return case
        if "speed_up" not in case:
            return case["plain_torch"]
        took, kind = best_step(case)
        plain = case["seconds"]["step, plain torch"]
        return plain / took, f"{kind}; plain torch {1e3 * plain:.1f} ms"

    return read


def attention(files):
    """The worst case of a cached step with as many K/V heads as heads; with fewer, products or
    launches bound it.
    """
    good, gone = measured(files, "operators")
    long = [
        c
        for c in good
        if c["sizes"].get("kv_heads") == 32
        and c["sizes"]["queries"] == 32
        and c["sizes"]["batch"] * c["sizes"]["keys"] >= LONG
    ]
    bad = [text for text in gone if text.startswith(("block_attention", "attention"))]
    if not long:
        return bad[0] if bad else "no record"
    worst = min(long, key=lambda c: c["share_of_bandwidth"])
    note = f"worst of {len(long)}: {worst['name']}; of a copy's {worst['share_of_copy']:.0%}"
    return 100 * worst["share_of_bandwidth"], note + (f"; {len(bad)} not measured" if bad else "")


def confidence(files):
    good, gone = measured(files, "operators")
    wanted = {"rows": 32, "vocab": 126464, "temperature": 0.0}
    for case in good:
        if case["sizes"] == wanted:
            took = case["seconds"]["dpad"]
            return 1e6 * took["median"], f"L2 cold; noise {took['noise']:.0%}"
    return next((text for text in gone if text.startswith("confidence")), "no record")


def batch_ratio(files):
    """Of the replayed cached step: refreshes are bound by products and gain nothing."""
    one, four = (_cell(files, batch, 1024) for batch in (1, 4))
    for case in (one, four):
        if isinstance(case, str):
            return case
    ratio = 4 * best_step(one)[0] / best_step(four)[0]
    return ratio, f"cached step, 1024 keys; {whole(files) or 'whole decodings not measured'}"


def whole(files):
    """The same ratio for whole decodings, in words."""
    rates = {
        (c["per_step"], c["batch"]): c["tokens_per_second"]
        for c in measured(files, "throughput")[0]
        if c.get("model") == MODEL
    }
    texts = [
        f"{rates[n, 4] / rates[n, 1]:.2f}x at {n} tokens per step"
        for n in sorted({n for n, _ in rates})
        if (n, 1) in rates and (n, 4) in rates
    ]
    return texts and "whole decodings " + ", ".join(texts)


GOALS = (
    Goal("cached step, batch 1, 1024 keys", 5.4, "ms", True, True, step_time(1024)),
    Goal("cached step, batch 1, 4096 keys", 6.0, "ms", True, True, step_time(4096)),
    Goal("cached step against plain torch, 1024 keys", 4.0, "x", False, False, step_ratio(1024)),
    Goal("cached step against plain torch, 4096 keys", 5.0, "x", False, False, step_ratio(4096)),
    Goal("attention from 8192 keys in total", 85.0, "% of bandwidth", False, False, attention),
    Goal("confidence, 32 x 126464 bf16", 8.0, "us", True, True, confidence),
    Goal("throughput of batch 4 against batch 1", 3.3, "x", False, False, batch_ratio),
)


def evaluate(files):
    """Per goal a dict of plain values: status "met", "not met" or "not measured".

    `scaled` is the goal times the ratio of the bandwidths, where memory bounds it and the device is
    another one: information, not the goal.
    """
    found = []
    for goal in GOALS:
        answer, gpu = goal.read(files), _gpu(files)
        record = {"name": goal.name, "goal": goal.limit, "unit": goal.unit}
        record["at_most"] = goal.at_most
        if isinstance(answer, str):
            found.append({**record, "status": "not measured", "note": answer})
            continue
        value, note = answer
        met = value <= goal.limit if goal.at_most else value >= goal.limit
        record |= {"value": value, "status": "met" if met else "not met", "note": note}
        if goal.memory and gpu not in (None, "H100"):
            record["scaled"] = goal.limit * DATASHEET["H100"][0] / DATASHEET[gpu][0]
        found.append(record)
    return found


def _gpu(files):
    named = [f["limits"]["gpu"] for f in files.values() if f.get("limits")]
    return named[0] if named else None
