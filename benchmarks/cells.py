"""The cells of the benchmark on the shipped model: what is measured, in pieces that can resume."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.measure import Arm
from dpad import Suffix

FULL = Suffix("all")
CACHES = ("none", "prefix", "dual")
# Other suffixes at canvas 256: the near positions are what counts, at equal cost.
SUFFIXES = {
    "none": Suffix("none"),
    "nearest 8 (hard window)": Suffix("window", window=8),
    "nearest 16 (hard window)": Suffix("window", window=16),
    "gaussian k 3, a 1.6, window 64": Suffix("gaussian", window=64, decay=3.0, scale=1.6),
    "gaussian k 3, a 2.3, window 64": Suffix("gaussian", window=64, decay=3.0, scale=2.3),
    "nearest 8, then gaussian a 1.6": Suffix("gaussian", window=64, decay=3.0, scale=1.6, near=8),
}


@dataclass(frozen=True)
class Cell:
    """A measurement with a name, what it depends on, and how many rounds it has."""

    name: str
    settings: dict
    rounds: int
    run: Callable  # (step: function without arguments, called per round) -> result


def flags(values):
    return "".join("1" if v else "0" for v in values)


def accuracy(tiny, canvas, arm, count, batch, step):
    """Scores one arm on `count` problems, in batches, each row with draws of its own."""
    right, forwards, positions, seconds = [], [], 0, []
    for first in range(0, count, batch):
        rows = slice(first, min(first + batch, count))
        out, spent = tiny.solve(rows, canvas, arm, list(range(rows.start, rows.stop)))
        right += tiny.right(rows, out.sequences[:, -canvas:])
        forwards += out.forwards.tolist()
        positions += out.timings["positions"]
        seconds.append(spent)
        step()
    return {
        "right": flags(right),
        "forwards": forwards,
        "positions": positions,
        "seconds": seconds,
    }


def pair(tiny, canvas, arm, rounds, batch, step):
    """dpad and the reference in turns on equal batches with equal kept sets."""
    tiny.solve(slice(0, 2), canvas, arm, [0, 0])
    tiny.solve_by_reference(slice(0, 2), canvas, arm, 0)
    seconds, same = {"dpad": [], "reference": []}, 0
    for number in range(rounds):
        rows = slice(number * batch, (number + 1) * batch)
        found = {}
        for name in ("dpad", "reference") if number % 2 else ("reference", "dpad"):
            if name == "dpad":
                out, spent = tiny.solve(rows, canvas, arm, [number] * batch)
                found[name] = out.sequences
            else:
                out, spent = tiny.solve_by_reference(rows, canvas, arm, number)
                found[name] = out.tokens
            seconds[name].append(spent)
        same += int((found["dpad"] == found["reference"]).all(-1).sum())
        step()
    return {"seconds": seconds, "identical": same, "rows": rounds * batch}


def chain_arms(tiny):
    """Name -> (who decodes, arm): each adds one factor to the one before, kernels come last."""
    arms = {"ordinary": ("ordinary", None)}
    plain = Arm(FULL, "none", False)
    arms["parallel"] = ("reference", plain)
    arms["early stop"] = ("reference", Arm(FULL))
    for cache in CACHES:
        arms[f"dropout, {cache}"] = ("reference", Arm(tiny.dropout, cache))
        arms[f"dpad, {cache}"] = ("dpad", Arm(tiny.dropout, cache))
    return arms


def chain(tiny, canvas, count, step):
    """From the ordinary loop to dpad one factor at a time: batch 1, all arms in turns."""
    arms = chain_arms(tiny)
    result = {n: {"seconds": [], "forwards": 0, "positions": 0, "right": ""} for n in arms}
    for who, arm in arms.values():
        if who != "ordinary":  # the ordinary loop has steps enough to make its own start-up small
            _solve(tiny, who, 0, canvas, arm)
    same = dict.fromkeys(CACHES, 0)
    for problem in range(count):
        tokens = {}
        order = list(arms.items())
        for name, (who, arm) in order if problem % 2 else order[::-1]:
            out, spent = _solve(tiny, who, problem, canvas, arm)
            found = result[name]
            tokens[name] = out.sequences if who == "dpad" else out.tokens
            found["seconds"].append(spent)
            found["forwards"] += int(out.forwards.sum())
            found["positions"] += out.timings["positions"] if who == "dpad" else out.positions
            rows = slice(problem, problem + 1)
            found["right"] += flags(tiny.right(rows, tokens[name][:, -canvas:]))
            step()
        for cache in CACHES:
            same[cache] += tokens[f"dpad, {cache}"].equal(tokens[f"dropout, {cache}"])
    return {"arms": result, "identical": same, "rows": count}


def _solve(tiny, who, problem, canvas, arm):
    rows = slice(problem, problem + 1)
    if who == "ordinary":
        return tiny.solve_ordinarily(rows, canvas)
    if who == "dpad":
        return tiny.solve(rows, canvas, arm, [problem])
    return tiny.solve_by_reference(rows, canvas, arm, problem)


def ordinarily(tiny, canvas, count, step):
    """The ordinary loop on a few problems, one after the other."""
    right, seconds, positions = "", [], 0
    for problem in range(count):
        out, spent = tiny.solve_ordinarily(slice(problem, problem + 1), canvas)
        right += flags(tiny.right(slice(problem, problem + 1), out.tokens[:, -canvas:]))
        seconds.append(spent)
        positions += out.positions
        step()
    return {"right": right, "forwards": [canvas] * count, "positions": positions,
            "seconds": seconds}  # fmt: skip


def factors(tiny, options, name):
    """Cells of another shipped model: one factor at a time, from the ordinary loop on."""
    common = {"model": tiny.fingerprint, "seed": tiny.seed, "kind": name, "canvas": options.main}
    count = options.ordinary_problems
    settings = {**common, "problems": count, "batch": 1, "label": "ordinary loop, batch 1"}
    yield Cell(
        f"{name}-{options.main}-ordinary",
        settings,
        count,
        lambda step: ordinarily(tiny, options.main, count, step),
    )
    arms = {"+ threshold": Arm(FULL, "none", False), "+ early stop": Arm(FULL)}
    arms |= {f"+ dropout, cache {cache}": Arm(tiny.dropout, cache) for cache in CACHES}
    for label, arm in arms.items():
        settings = {**common, "problems": options.problems, "batch": options.batch}
        slug = "-".join(re.findall(r"[a-z0-9]+", label))
        yield Cell(
            f"{name}-{options.main}-{slug}",
            {**settings, **arm.settings(), "label": label},
            -(-options.problems // options.batch),
            lambda step, arm=arm: accuracy(
                tiny, options.main, arm, options.problems, options.batch, step
            ),
        )


def cells(tiny, options):
    """All cells on the shipped model, in order; `options` are the command line's."""
    common = {"model": tiny.fingerprint, "seed": tiny.seed}
    rounds = lambda n: -(-n // options.batch)  # noqa: E731

    def accuracy_cell(group, name, canvas, arm, count):
        settings = {"canvas": canvas, "problems": count, "batch": options.batch, **arm.settings()}
        slug = "-".join(re.findall(r"[a-z0-9]+", name))
        return Cell(
            f"{group}-{canvas}-{slug}",
            {**common, **settings, "kind": group, "label": name},
            rounds(count),
            lambda step: accuracy(tiny, canvas, arm, count, options.batch, step),
        )

    for canvas in options.canvases:
        for stop in (False, True):
            for kind, suffix in (("full", FULL), ("dropout", tiny.dropout)):
                for cache in CACHES if canvas == options.main else ("none",):
                    arm = Arm(suffix, cache, stop)
                    count = options.problems
                    if canvas > options.main and not stop:
                        count = min(count, options.slow_problems)
                    name = f"{kind}-{cache}-{'stop' if stop else 'all'}"
                    yield accuracy_cell("arm", name, canvas, arm, count)
                    if canvas == options.main:
                        yield _pair_cell(tiny, common, options, name, canvas, arm)
    for name, suffix in SUFFIXES.items():
        yield accuracy_cell("suffix", name, options.main, Arm(suffix), options.problems)
    for canvas in options.canvases:
        count = options.ordinary_problems
        settings = {"canvas": canvas, "problems": count, "kind": "chain", "batch": 1}
        settings["dropout"] = tiny.dropout.as_dict()
        yield Cell(
            f"chain-{canvas}",
            {**common, **settings},
            count * len(chain_arms(tiny)),
            lambda step, canvas=canvas, count=count: chain(tiny, canvas, count, step),
        )


def _pair_cell(tiny, common, options, name, canvas, arm):
    count, batch = options.pair_rounds, options.batch
    settings = {"canvas": canvas, "rounds": count, "batch": batch, **arm.settings()}
    return Cell(
        f"pair-{canvas}-{name}",
        {**common, **settings, "kind": "pair"},
        count,
        lambda step: pair(tiny, canvas, arm, count, batch, step),
    )
