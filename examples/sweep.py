"""Window, density and near positions of the kept suffix against accuracy and cost.

    python examples/sweep.py                              a minute, on the shipped tiny LLaDA
    python examples/sweep.py --problems 1000 --windows 16 32 64 128 --densities 0.1 0.2 0.4 0.6 0.8

Every point decodes the same held-out problems, each with kept sets of its own. Written to --out:
sweep.json (every point, with its settings), cost.png (accuracy against positions computed, with
95 % intervals) and window_density.png (accuracy by window and density, one panel per --near).
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from tqdm import tqdm

import dpad

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")  # Okabe and Ito


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--problems", type=int, default=64, help="held-out problems per point")
    add("--canvas", type=int, default=256, help="generated tokens")
    add("--windows", type=int, nargs="+", default=[16, 64])
    add("--densities", type=float, nargs="+", default=[0.15, 0.3, 0.6], help="kept share of it")
    add("--near", type=int, nargs="+", default=[0, 8], help="nearest positions kept always")
    add("--decay", type=float, default=3.0, help="k of the gaussian")
    add("--threshold", type=float, default=0.9)
    add("--batch", type=int, default=32)
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("sweep"))
    return parser.parse_args(arguments)


def points(options):
    """Label -> suffix: the grid, and everything and nothing kept as its ends."""
    yield {"label": "full suffix"}, dpad.Suffix("all")
    yield {"label": "no suffix"}, dpad.Suffix("none")
    for near in options.near:
        for window in options.windows:
            for density in options.densities:
                shape = {"window": window, "decay": options.decay, "density": density}
                where = {"window": window, "density": density, "near": near}
                yield where, dpad.Suffix("gaussian", near=near, **shape)


def wilson(right, n):
    """Wilson's 95 % score interval of a share, in percent."""
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return [100 * (middle + side * half) / (1 + z * z / n) for side in (-1, 1)]


def measure(model, problems, suffix, options):
    """Exact matches, forwards, positions and seconds per problem of one suffix."""
    right, forwards, positions, begun = 0, 0, 0, time.perf_counter()
    for first in range(0, len(problems), options.batch):
        part = problems[first : first + options.batch]
        out = model.generate(
            [p.prompt_ids for p in part],
            max_new_tokens=options.canvas,
            confidence_threshold=options.threshold,
            suffix=suffix,
            cache="none",
            early_stop=True,
            seed=options.seed,
            row_keys=range(first, first + len(part)),
            return_dict_in_generate=True,
        )
        answers = out.sequences[:, -options.canvas :]
        right += sum(p.check(a) for p, a in zip(part, answers, strict=True))
        forwards += int(out.forwards.sum())
        positions += out.timings["positions"]
    n = len(problems)
    return {
        "exact": 100 * right / n,
        "interval": wilson(right, n),
        "forwards": forwards / n,
        "positions": positions / n,
        "seconds": (time.perf_counter() - begun) / n,
    }


def _cost_curve(found, path):
    """Accuracy against positions, one curve per number of near positions."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="positions computed per problem")
    axes.set_ylabel("exact answers [%], 95 % interval")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.xaxis.set_minor_formatter(StrMethodFormatter("{x:.0f}"))
    grid = [p for p in found if "near" in p]
    groups = {
        f"nearest {n} kept": [p for p in grid if p["near"] == n] for n in _values(grid, "near")
    }
    groups |= {p["label"]: [p] for p in found if "label" in p}
    for number, (label, group) in enumerate(groups.items()):
        group = sorted(group, key=lambda p: p["positions"])
        exact = [p["exact"] for p in group]
        spread = zip(*(p["interval"] for p in group), strict=True)
        low, high = ([abs(e - v) for e, v in zip(exact, side, strict=True)] for side in spread)
        axes.errorbar(
            [p["positions"] for p in group],
            exact,
            yerr=(low, high),
            fmt="o-" if len(group) > 1 else "D",
            capsize=3,
            color=COLOURS[number % len(COLOURS)],
            label=label,
        )
    axes.legend()
    figure.savefig(path, dpi=150)


def _values(found, name):
    return sorted({p[name] for p in found})


def _maps(found, path):
    """Accuracy by window and density, one panel per number of near positions."""
    grid = [p for p in found if "near" in p]
    nears, windows, densities = (_values(grid, n) for n in ("near", "window", "density"))
    figure = Figure(figsize=(1 + 3.5 * len(nears), 3.5), layout="constrained")
    panels = figure.subplots(1, len(nears), squeeze=False)[0]
    lowest = 10 * math.floor(min(p["exact"] for p in grid) / 10)
    scale = {"cmap": "cividis", "vmin": min(lowest, 90), "vmax": 100}
    by_place = {(p["near"], p["window"], p["density"]): p["exact"] for p in grid}
    for axes, near in zip(panels, nears, strict=True):
        values = [[by_place[near, w, d] for d in densities] for w in windows]
        image = axes.imshow(values, origin="lower", aspect="auto", **scale)
        axes.set_xticks(range(len(densities)), densities)
        axes.set_yticks(range(len(windows)), windows)
        axes.set(xlabel="density", ylabel="window", title=f"nearest {near} kept")
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                colour = "black" if value > (100 + scale["vmin"]) / 2 else "white"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=panels, label="exact answers [%]")
    figure.savefig(path, dpi=150)


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    model, _ = dpad.demo.load()
    problems = dpad.demo.problems(options.problems, options.seed)
    found = []
    with dpad.patch(model):
        for place, suffix in tqdm(list(points(options)), unit="point"):
            found.append({**place, **measure(model, problems, suffix, options)})
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    text = json.dumps({"settings": settings, "points": found}, indent=1) + "\n"
    (options.out / "sweep.json").write_text(text, encoding="utf-8")
    _cost_curve(found, options.out / "cost.png")
    _maps(found, options.out / "window_density.png")
    for p in sorted(found, key=lambda p: -p["exact"]):
        name = p.get("label") or "window {window}, density {density}, near {near}".format(**p)
        cost = "{forwards:.1f} forwards, {positions:.0f} positions, {seconds:.4f} s".format(**p)
        print(f"{p['exact']:5.1f} %  {name}: {cost}")
    print(f"written: {options.out}/sweep.json, cost.png, window_density.png")


if __name__ == "__main__":
    main()
