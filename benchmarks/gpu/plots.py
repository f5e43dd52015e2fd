"""Draws operators.json, step.json and generate.json of a results folder, each as a .png."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.gpu.goals import measured

STEPS = ("step, graph", "step, graph, fused", "step, eager", "step, plain torch")


def _save(figure, found, path):
    figure.suptitle(f"{found['machine']['device']}, torch {found['machine']['torch']}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def operators(found, cases, path):
    """Share of the bandwidth that each case reaches, and its speed-up over the best peer."""
    cases = cases[::-1]
    names = [c["name"] for c in cases]
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(13, 1 + 0.3 * len(cases)), layout="constrained"
    )
    left.barh(names, [c["share_of_bandwidth"] for c in cases])
    left.set_xlabel("share of the bandwidth (1: the floor), L2 cold")
    right.barh(names, [c["speed_up"] or 0 for c in cases], color="tab:green")
    right.axvline(1, color="black", linewidth=0.8)
    right.set_xlabel("times as fast as the best stock peer")
    _save(figure, found, path)


def _bars(axis, labels, bars):
    """Bars beside one another: name -> heights."""
    width = 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        places = [i + (number - (len(bars) - 1) / 2) * width for i in range(len(labels))]
        axis.bar(places, values, width=width, label=name)
    axis.set_xticks(range(len(labels)), labels)
    axis.legend()


def _by_model(cases):
    """A figure with one axis per model, and model -> its cases."""
    models = dict.fromkeys(c["model"] for c in cases)
    models = {name: [c for c in cases if c["model"] == name] for name in models}
    figure, axes = plt.subplots(
        1, len(models), squeeze=False, figsize=(7 * len(models), 4.5), layout="constrained"
    )
    return figure, zip(axes[0], models.items(), strict=True)


def step(found, cases, path):
    """Milliseconds of a cached step: floor, replayed graph, eager, plain torch."""
    figure, parts = _by_model(cases)
    for axis, (name, some) in parts:
        bars = {"floor": [1e3 * c["floor"] for c in some]}
        for kind in STEPS:
            bars[kind] = [1e3 * c["seconds"].get(kind, 0) for c in some]
        _bars(axis, [f"{c['batch']} x {c['keys']}" for c in some], bars)
        axis.set(title=name, xlabel="sequences x keys", ylabel="ms per cached step")
    _save(figure, found, path)


def generate(found, cases, path):
    """Tokens per second of whole decodings: floor, dpad, plain torch."""
    figure, parts = _by_model([c for c in cases if c["kind"] == "generate"])
    for axis, (name, some) in parts:
        tokens = [c["batch"] * c["new_tokens"] for c in some]
        seconds = {"floor": [c["floor"] for c in some]}
        for kind in ("dpad", "plain torch"):
            seconds[kind] = [c["seconds"][kind] for c in some]
        bars = {k: [n / t for n, t in zip(tokens, v, strict=True)] for k, v in seconds.items()}
        _bars(axis, [f"{c['per_step']} of {c['keys']}" for c in some], bars)
        axis.set(title=name, xlabel="tokens per step, keys", ylabel="tokens per second")
    _save(figure, found, path)


def main(folder):
    """Draws what was measured; returns 1 if there is nothing."""
    folder, drawn = Path(folder), 0
    for draw in (operators, step, generate):
        source = folder / f"{draw.__name__}.json"
        if not source.exists():
            continue
        found = json.loads(source.read_text(encoding="utf-8"))
        cases = measured({draw.__name__: found}, draw.__name__)[0]
        if [c for c in cases if c.get("kind") != "check"]:
            draw(found, cases, source.with_suffix(".png"))
            drawn += 1
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
