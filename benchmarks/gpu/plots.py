"""Draws operators.json and step.json of a results folder as operators.png and step.png."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def operators(found, path):
    """Share of the bandwidth that each case reaches, and its speed-up over the best peer."""
    cases = [c for c in found["cases"] if "problem" not in c][::-1]
    names = [c["name"] for c in cases]
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(13, 1 + 0.3 * len(cases)), layout="constrained"
    )
    left.barh(names, [c["share_of_bandwidth"] for c in cases])
    left.set_xlabel("share of the copy bandwidth (1: the floor)")
    right.barh(names, [c["speed_up"] or 0 for c in cases], color="tab:green")
    right.axvline(1, color="black", linewidth=0.8)
    right.set_xlabel("times as fast as the best stock peer")
    figure.suptitle(f"{found['machine']['device']}, torch {found['machine']['torch']}, L2 cold")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def step(found, path):
    """Milliseconds of a cached step: floor, replayed graph, eager, plain torch."""
    models = found["models"]
    figure, axes = plt.subplots(
        1, len(models), squeeze=False, figsize=(6 * len(models), 4.5), layout="constrained"
    )
    for axis, (name, cells) in zip(axes[0], models.items(), strict=True):
        cells = [c for c in cells if "problem" not in c]
        labels = [f"{c['batch']} x {c['keys']}" for c in cells]
        bars = {"floor": [c["floor"] for c in cells]}
        for kind in ("step, graph", "step, eager", "step, plain torch"):
            bars[kind] = [c["seconds"][kind] for c in cells]
        for number, (kind, values) in enumerate(bars.items()):
            places = [i + (number - 1.5) * 0.2 for i in range(len(cells))]
            axis.bar(places, [1e3 * v for v in values], width=0.2, label=kind)
        axis.set_xticks(range(len(cells)), labels)
        axis.set(title=name, xlabel="sequences x keys", ylabel="ms per cached step")
        axis.legend()
    figure.suptitle(f"{found['machine']['device']}, torch {found['machine']['torch']}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(folder):
    """Returns 1 if there is nothing to draw."""
    folder, drawn = Path(folder), 0
    for draw in (operators, step):
        source = folder / f"{draw.__name__}.json"
        if source.exists():
            draw(json.loads(source.read_text()), source.with_suffix(".png"))
            drawn += 1
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
