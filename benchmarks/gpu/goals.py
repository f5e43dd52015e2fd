"""What is to be reached and what was expected, as one table, and how it is read from the records.

All are an H100's, at the shape of LLaDA-8B. An expectation, with a number, confirms or ends an
idea: `DECISIONS` says what follows.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import NamedTuple

from benchmarks.gpu.device import DATASHEET
from benchmarks.gpu.figures import failed

H100 = DATASHEET["H100"][0]
MODEL, LAYERS, SMALL_KERNELS = "LLaDA-8B", 32, 4  # small kernels of a layer
GRAPHS = ("step, graph", "step, graph, fused")
FLASH, SLICES = "SDPA flash, exact length", "SDPA flash, slices of the cache"
LONG = 8192  # keys in total from which attention can be bound by memory
REFRESH = {512: 11, 1024: 22, 2048: 44}  # milliseconds expected, by rows


class Missing(Exception):
    """Why there is no value."""


class Goal(NamedTuple):
    """`read(records, scale)` gives (value, note), or raises `Missing`; the value, in `unit`, is to
    be from `least` to `most`. `scale` is an H100's bandwidth over the device's.

    `memory`: memory bounds the figure, so that another device's would scale with its bandwidth.
    """

    name: str
    least: float
    most: float
    unit: str
    read: Callable
    memory: bool = False

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


def _ms(seconds):
    return f"{1e3 * seconds:.2f} ms"


def step_of(records, batch, keys):
    """(seconds of the faster replayed step, its kind, the record)."""
    record = find(records, "step", model=MODEL, batch=batch, keys=keys)[0]
    kind = min((g for g in GRAPHS if g in record["seconds"]), key=record["seconds"].get)
    return record["seconds"][kind], kind, record


def step_time(keys, records, scale):
    took, kind, record = step_of(records, 1, keys)
    note = f"{kind}; not fused {_ms(record['seconds'][GRAPHS[0]])}; floor {_ms(record['floor'])}"
    return 1e3 * took, note


def step_ratio(keys, records, scale):
    took, kind, record = step_of(records, 1, keys)
    if "speed_up" not in record:
        raise Missing(record["plain_torch"])
    plain = record["seconds"]["step, plain torch"]
    return plain / took, f"{kind}; plain torch {_ms(plain)}"


def attention_share(records, scale):
    """The worst case of a cached step with as many K/V heads as heads; with fewer, products or
    launches bound it.
    """
    cases = [r for r in records if r.get("operator") == "attention"]
    cases = [r for r in cases if r["sizes"][1:4] == [32, 32, 32]]
    cases = [r for r in cases if r["sizes"][0] * r["sizes"][4] >= LONG]
    worst = min(good := find(cases, "operator"), key=lambda r: r["share_of_bandwidth"])
    note = f"worst of {len(good)}: {worst['name']}; of a copy's {worst['share_of_copy']:.0%}"
    gone = len(cases) - len(good)
    return 100 * worst["share_of_bandwidth"], note + (f"; {gone} not measured" if gone else "")


def confidence(records, scale):
    record = find(records, "operator", operator="confidence", sizes=[32, 126464, 0.0])[0]
    took = record["seconds"]["dpad"]
    return 1e6 * took["median"], f"L2 cold; noise {took['noise']:.0%}"


def batch_ratio(records, scale):
    """Of the replayed cached step: refreshes are bound by products and gain nothing."""
    one, four = (step_of(records, batch, 1024)[0] for batch in (1, 4))
    some = [r for r in records if r["kind"] == "throughput" and failed(r) is None]
    rates = {(r["per_step"], r["batch"]): r["tokens_per_second"] for r in some}
    whole = [
        f"{rates[n, 4] / rate:.2f}x at {n} tokens per step"
        for (n, batch), rate in sorted(rates.items())
        if batch == 1 and (n, 4) in rates
    ]
    return 4 * one / four, f"cached step; whole decodings: {', '.join(whole) or 'not measured'}"


def launches(keys, records, scale):
    record = find(records, "launches", keys=keys)[0]
    seen = record["profiled"]["plain torch"]
    note = ", ".join(f"{name} {seen.get(name)}" for name in ("kernels", "launches", "waits"))
    return 1e3 * record["seconds"]["plain torch"], seen.get("unavailable", note)


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


def products(records, scale):
    """Of a layer's four products, the model that reaches the least."""
    shares = {}
    for model, layer in layers(find(records, "linear", rows=32)).items():
        ideal = sum(r["share_of_bandwidth"] * r["seconds"] for r in layer)
        shares[model] = 100 * ideal / sum(r["seconds"] for r in layer)
    return min(shares.values()), ", ".join(f"{name} {s:.0f} %" for name, s in shares.items())


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


def flash(records, scale):
    """Microseconds as they would be by an H100's bandwidth."""
    good, notes = find(records, "attention"), []
    for kv_heads in sorted({r["kv_heads"] for r in good}, reverse=True):
        rows = sdpa_from([r for r in good if r["kv_heads"] == kv_heads])
        text = "at none of the row counts" if rows is None else f"from {rows} query rows"
        notes.append(f"{kv_heads} K/V heads: SDPA {text}")
    step = find(records, "attention", queries=32, kv_heads=32, keys=1024)[0]["seconds"]
    if FLASH not in step:
        raise Missing("; ".join([f"{FLASH} refuses the case", *notes]))
    return 1e6 * step[FLASH]["median"] / scale, "; ".join(notes)


def dependent(records, scale):
    found = find(records, "dependent_launch")[0]["microseconds"]
    if not found["dependent_launch"]:
        raise Missing("the device has no such launch")
    gain = found["small, plain"] - found["small, early"]
    return gain, f"{SMALL_KERNELS * LAYERS * gain / 1e3:.2f} ms of a step"


def sampler(records, scale):
    record = find(records, "sampler", rows=32)[0]
    return 1e6 * record["cold"], f"again {1e6 * record['again']:.1f}, hot {1e6 * record['hot']:.1f}"


def refresh(records, scale):
    """The worst of the refreshes over what was expected."""
    over, notes = [], []
    for record in find(records, "refresh"):
        rows, eager, graph = (record["keys"], *(record["seconds"][n] for n in ("eager", "graph")))
        over.append(1e3 * eager / REFRESH[rows])
        notes.append(f"{rows} rows: {_ms(eager - graph)} over its graph")
    return max(over), "; ".join(notes)


def narrow(records, scale):
    """Of a layer's four products, by the best kind that takes all of them."""
    gains = {}
    for model, layer in layers(find(records, "narrow")).items():
        times = [record["seconds"] for record in layer]
        for kind in set.intersection(*map(set, times)) - {"bf16"}:
            gains[f"{kind}, {model}"] = sum(t["bf16"] for t in times) / sum(t[kind] for t in times)
    if not gains:
        raise Missing("no kind took all products")
    return max(gains.values()), f"by {max(gains, key=gains.get)}"


def mixed(records, scale):
    times = find(records, "mixed")[0]["graph"]
    apart = times["refresh"] + times["steps"]
    note = f"mixed {_ms(times['mixed'])}, apart {_ms(apart)}"
    return 100 * (1 - times["mixed"] / apart), note


GOALS = (
    Goal("cached step, batch 1, 1024 keys", 0, 5.4, "ms", partial(step_time, 1024), True),
    Goal("cached step, batch 1, 4096 keys", 0, 6, "ms", partial(step_time, 4096), True),
    Goal("cached step against plain torch, 1024 keys", 4, inf, "x", partial(step_ratio, 1024)),
    Goal("cached step against plain torch, 4096 keys", 5, inf, "x", partial(step_ratio, 4096)),
    Goal("attention from 8192 keys in total", 85, inf, "% of bandwidth", attention_share),
    Goal("confidence, 32 x 126464 bf16", 0, 8, "us", confidence, True),
    Goal("throughput of batch 4 against batch 1", 3.3, inf, "x", batch_ratio),
    # 21 to 25 ms and 28 to 33 ms were expected, within 20 %.
    Goal("1. published step, 1024 keys", 0.8 * 21, 1.2 * 25, "ms", partial(launches, 1024)),
    Goal("1. published step, 4096 keys", 0.8 * 28, 1.2 * 33, "ms", partial(launches, 4096)),
    Goal("2. F.linear at 32 rows, cold, in a graph", 75, inf, "% of bandwidth", products),
    Goal("3. SDPA flash, 32 rows, 1024 keys, by an H100's bandwidth", 8, inf, "us", flash),
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
    """Per goal a dict of plain values: status "met", "not met" or "not measured".

    `scaled` is the goal by the device's bandwidth, where memory bounds it and the device is
    another one: information, not the goal.
    """
    scale, found = H100 / limits["bandwidth"], []
    for goal in GOALS:
        row = {"goal": goal.name, "wanted": goal.wanted, "status": "not measured"}
        found.append(row)
        try:
            value, note = goal.read(records, scale)
        except Missing as why:
            row["note"] = str(why)
            continue
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            # An odd record must not cost the figures of all others.
            row["note"] = f"{type(error).__name__} {error}"
            continue
        met = goal.least <= value <= goal.most
        row |= {"value": value, "status": "met" if met else "not met", "note": note}
        row["decision"] = DECISIONS.get(goal.name[0], ("", ""))[not met]
        if goal.memory and limits["gpu"] not in (None, "H100"):
            row["scaled"] = goal.most * scale
    return found
