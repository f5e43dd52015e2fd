"""What is to be reached and what was expected, as one table, and how it is read from the records.

All are an H100's, at the shape of LLaDA-8B. An expectation, with a number, confirms or ends an
idea: `DECISIONS` says what follows.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import NamedTuple

from benchmarks.gpu.figures import failed
from benchmarks.gpu.floor import DATASHEET

MODEL = "LLaDA-8B"
GRAPHS = ("step, graph", "step, graph, fused")
FLASH, SLICES = "SDPA flash, exact length", "SDPA flash, slices of the cache"
LONG = 8192  # keys in total from which attention can be bound by memory
REFRESH = {512: 11, 1024: 22, 2048: 44}  # milliseconds expected, by rows


class Missing(Exception):
    """Why there is no value."""


class Goal(NamedTuple):
    """`read(records)` gives the value, or (value, note), or raises `Missing`. The value, in `unit`,
    is to be from `least` to `most`; `scaled`: a time that is taken by an H100's bandwidth.
    """

    name: str
    least: float
    most: float
    unit: str
    read: Callable
    scaled: bool = False

    @property
    def wanted(self):
        sides = [f">= {self.least:g}"] if self.least else []
        sides += [f"<= {self.most:g}"] if self.most < inf else []
        return f"{', '.join(sides)} {self.unit}"


def find(records, kind, **fields):
    """Records that count. Raises `Missing` where there is none, with the first reason."""
    some = [r for r in records if r["kind"] == kind]
    some = [r for r in some if all(r.get(name) == value for name, value in fields.items())]
    good = [r for r in some if failed(r) is None]
    if not good:
        raise Missing(f"{some[0]['case']}: {failed(some[0])}" if some else "no record")
    return good


def step(records, batch, keys):
    """(milliseconds of the faster replayed step, of plain torch's if that is there)."""
    record = find(records, "step", model=MODEL, batch=batch, keys=keys)[0]
    times = record["seconds"]
    plain = times.get("step, plain torch")
    return 1e3 * min(times[g] for g in GRAPHS if g in times), plain and 1e3 * plain


def step_time(keys, records):
    return step(records, 1, keys)[0]


def step_ratio(keys, records):
    took, plain = step(records, 1, keys)
    if plain is None:
        raise Missing("plain torch was not measured")
    return plain / took


def attention_share(records):
    """The worst case of a cached step with as many K/V heads as heads; with fewer, products or
    launches bound it.
    """
    cases = [r for r in records if r.get("operator") == "attention"]
    cases = [r for r in cases if r["sizes"][1:4] == [32, 32, 32]]
    cases = [r for r in cases if r["sizes"][0] * r["sizes"][4] >= LONG]
    good = find(cases, "operator")
    worst = min(good, key=lambda r: r["share_of_bandwidth"])
    return 100 * worst["share_of_bandwidth"], f"worst of {len(good)} in {len(cases)}"


def confidence(records):
    record = find(records, "operator", operator="confidence", sizes=[32, 126464, 0.0])[0]
    return 1e6 * record["seconds"]["dpad"]["median"]


def batch_ratio(records):
    """Of the replayed cached step: refreshes are bound by products and gain nothing."""
    return 4 * step(records, 1, 1024)[0] / step(records, 4, 1024)[0]


def launches(keys, records):
    return 1e3 * find(records, "launches", keys=keys)[0]["seconds"]["plain torch"]


def layers(records):
    """Model -> the records of a layer's four products, where all are there."""
    found = {}
    for record in records:
        if record["name"] != "head":
            found.setdefault(record["model"], []).append(record)
    found = {model: some for model, some in found.items() if len(some) == 4}
    if not found:
        raise Missing("a layer's products are not complete")
    return found


def products(records):
    """Of a layer's four products, the model that reaches the least."""
    shares = []
    for layer in layers(find(records, "linear", rows=32)).values():
        ideal = sum(r["share_of_bandwidth"] * r["seconds"] for r in layer)
        shares.append(100 * ideal / sum(r["seconds"] for r in layer))
    return min(shares)


def sdpa_from(records):
    """Query rows from which SDPA on slices of the cache is the faster one at all keys, or None."""
    wins, best = {}, None
    for record in records:
        times = {name: t["median"] for name, t in record["seconds"].items()}
        wins.setdefault(record["queries"], []).append(times.get(SLICES, inf) < times["dpad"])
    for rows in sorted(wins, reverse=True):
        if not all(wins[rows]):
            break
        best = rows
    return best


def flash(records):
    good, notes = find(records, "attention"), []
    for kv_heads in sorted({r["kv_heads"] for r in good}, reverse=True):
        rows = sdpa_from([r for r in good if r["kv_heads"] == kv_heads])
        text = "at none of the row counts" if rows is None else f"from {rows} query rows"
        notes.append(f"{kv_heads} K/V heads: SDPA {text}")
    cached = find(records, "attention", queries=32, kv_heads=32, keys=1024)[0]["seconds"]
    if FLASH not in cached:
        raise Missing("; ".join([f"{FLASH} refuses the case", *notes]))
    return 1e6 * cached[FLASH]["median"], "; ".join(notes)


def dependent(records):
    found = find(records, "dependent_launch")[0]["microseconds"]
    if not found["dependent_launch"]:
        raise Missing("the device has no such launch")
    return found["small, plain"] - found["small, early"]


def sampler(records):
    return 1e6 * find(records, "sampler", rows=32)[0]["cold"]


def refresh(records):
    """The worst of the refreshes over what was expected."""
    return max(1e3 * r["seconds"]["eager"] / REFRESH[r["keys"]] for r in find(records, "refresh"))


def narrow(records):
    """Of a layer's four products, by the best kind that takes all of them."""
    gains = {}
    for model, layer in layers(find(records, "narrow")).items():
        times = [record["seconds"] for record in layer]
        for kind in set.intersection(*map(set, times)) - {"bf16"}:
            gains[f"{kind}, {model}"] = sum(t["bf16"] for t in times) / sum(t[kind] for t in times)
    if not gains:
        raise Missing("no kind took all products")
    return max(gains.values()), f"by {max(gains, key=gains.get)}"


def mixed(records):
    times = find(records, "mixed")[0]["graph"]
    return 100 * (1 - times["mixed"] / (times["refresh"] + times["steps"]))


GOALS = (
    Goal("cached step, batch 1, 1024 keys", 0, 5.4, "ms", partial(step_time, 1024)),
    Goal("cached step, batch 1, 4096 keys", 0, 6, "ms", partial(step_time, 4096)),
    Goal("cached step against plain torch, 1024 keys", 4, inf, "x", partial(step_ratio, 1024)),
    Goal("cached step against plain torch, 4096 keys", 5, inf, "x", partial(step_ratio, 4096)),
    Goal("attention from 8192 keys in total", 85, inf, "% of bandwidth", attention_share),
    Goal("confidence, 32 x 126464 bf16", 0, 8, "us", confidence),
    Goal("throughput of batch 4 against batch 1", 3.3, inf, "x", batch_ratio),
    # 21 to 25 ms and 28 to 33 ms were expected, within 20 %.
    Goal("1. published step, 1024 keys", 0.8 * 21, 1.2 * 25, "ms", partial(launches, 1024)),
    Goal("1. published step, 4096 keys", 0.8 * 28, 1.2 * 33, "ms", partial(launches, 4096)),
    Goal("2. F.linear at 32 rows, cold, in a graph", 75, inf, "% of bandwidth", products),
    Goal("3. SDPA flash, 32 rows, 1024 keys, by an H100's bandwidth", 8, inf, "us", flash, True),
    Goal("4. saved per small kernel by dependent launch", 0.45, inf, "us", dependent),
    Goal("5. the sampler's kernel at 32 rows, L2 cold", 0, 8, "us", sampler),
    Goal("6. refreshes of 512 to 2048 rows over those expected", 0, 1.1, "x", refresh),
    Goal("7. 8-bit weights at 32 rows against bfloat16", 1.4, inf, "x", narrow),
    Goal("8. saved by mixing a refresh with three steps", 8, inf, "%", mixed),
)
# What follows from an expectation that holds, and from one that does not, by its number.
DECISIONS = {
    "1": ("the order of the optimisations stays", "rank the optimisations again by these figures"),
    "2": ("F.linear stays", "tuned products of few rows move to rank 3"),
    "3": ("the own kernel stays", "SDPA stays at batch 1, the own kernel is dropped"),
    "4": ("worth doing", "drop dependent launches"),
    "5": ("rows cut into chunks stay", "one block per row is enough: the chunks gain nothing"),
    "6": ("refreshes stay eager", "find the eager overhead"),
    "7": ("8-bit weights stay an option", "drop 8-bit weights"),
    "8": ("mixing refreshes with others' steps is worth a scheduler", "drop mixing"),
}


def evaluate(records, limits):
    """Per goal a dict of plain values: status "met", "not met" or "not measured"."""
    scale, found = DATASHEET["H100"][0] / limits["bandwidth"], []
    for goal in GOALS:
        row = {"goal": goal.name, "wanted": goal.wanted, "status": "not measured"}
        found.append(row)
        try:
            value = goal.read(records)
        except Missing as why:
            row["note"] = str(why)
            continue
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            # An odd record must not cost the figures of all others.
            row["note"] = f"{type(error).__name__} {error}"
            continue
        value, note = value if isinstance(value, tuple) else (value, "")
        value = value / scale if goal.scaled else value
        met = goal.least <= value <= goal.most
        row |= {"value": value, "status": "met" if met else "not met", "note": note}
        row["decision"] = DECISIONS.get(goal.name[0], ("", ""))[not met]
    return found
