"""Window, density and near positions of the kept suffix against accuracy and cost.

    python examples/sweep.py                              a minute, on the shipped tiny LLaDA
    python examples/sweep.py --problems 1000 --windows 16 32 64 128 --densities 0.1 0.2 0.4 0.6 0.8

Every point decodes the same held-out problems, each with kept sets of its own (`dpad.tune`).
Written to --out: measured.jsonl (an interrupted sweep goes on from it), sweep.json (every point,
with its settings), cost.png (accuracy against positions computed, with 95 % intervals) and
window_density.png (accuracy by window and density, one panel per --near).
"""

import argparse
import json
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

import dpad


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


def places(options):
    """(label or place in the grid, suffix): the grid, everything and nothing kept as its ends."""
    yield {"label": "full suffix"}, dpad.Suffix("all")
    yield {"label": "no suffix"}, dpad.Suffix("none")
    for near in options.near:
        for window in options.windows:
            for density in options.densities:
                shape = {"window": window, "decay": options.decay, "density": density}
                where = {"window": window, "density": density, "near": near}
                yield where, dpad.Suffix("gaussian", near=near, **shape)


def row(place, point):
    """What is written down of a point of the grid."""
    return {
        **place,
        "exact": 100 * point.accuracy,
        "interval": [100 * share for share in point.interval],
        "forwards": point.forwards,
        "positions": point.positions,
        "seconds": point.seconds,
    }


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
    where, suffixes = zip(*places(options), strict=True)
    tuning = dpad.tune(
        model,
        dpad.demo.problems(options.problems, options.seed),
        lambda problem, answer: problem.check(answer),
        {"suffix": suffixes},
        config=dpad.DPadGenerationConfig(
            max_new_tokens=options.canvas,
            confidence_threshold=options.threshold,
            cache="none",
            early_stop=True,
        ),
        prompt=lambda problem: problem.prompt_ids,
        batch=options.batch,
        seed=options.seed,
        cost="positions",
        path=options.out / "measured.jsonl",
    )
    found = [row(place, point) for place, point in zip(where, tuning.points, strict=True)]
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    text = json.dumps({"settings": settings, "points": found}, indent=1) + "\n"
    (options.out / "sweep.json").write_text(text, encoding="utf-8")
    tuning.plot().figure.savefig(options.out / "cost.png", dpi=150)
    _maps(found, options.out / "window_density.png")
    print(tuning)
    print(f"written: {options.out}/sweep.json, cost.png, window_density.png")


if __name__ == "__main__":
    main()
