"""Draws operators, steps and decodings of a results folder, each as a .png."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.gpu.figures import failed

STEPS = ("step, graph", "step, graph, fused", "step, eager", "step, plain torch")


def share(case):
    return {"of the bandwidth (1: the floor), L2 cold": case["share_of_bandwidth"]}


def speed_up(case):
    return {"times as fast as the best stock peer": case["speed_up"] or 0}


def step(case):
    times = {"floor": case["floor"], **{n: case["seconds"].get(n, 0) for n in STEPS}}
    return {f"ms, {name}": 1e3 * seconds for name, seconds in times.items()}


def rate(case):
    seconds = {"floor": case["floor"], **case["seconds"]}
    tokens = case["batch"] * case["new_tokens"]
    return {f"tokens per second, {name}": tokens / t for name, t in seconds.items()}


# Kind of the records -> name of the picture, and what each of its axes shows.
PICTURES = {
    "operator": ("operators", (share, speed_up)),
    "step": ("step", (step,)),
    "generate": ("generate", (rate,)),
}


def draw(cases, title, path, views):
    """An axis for each view: a group of bars for each case, with a bar for each value."""
    size = {"figsize": (6 + 5 * len(views), 1 + 0.5 * len(cases)), "layout": "constrained"}
    figure, axes = plt.subplots(1, len(views), sharey=True, squeeze=False, **size)
    for axis, view in zip(axes[0], views, strict=True):
        values = [view(case) for case in cases]
        height = 0.8 / len(values[0])
        for number, name in enumerate(values[0]):
            places = [i + (number + 0.5) * height - 0.4 for i in range(len(cases))]
            axis.barh(places, [v[name] for v in values], height=height, label=name)
        axis.set_yticks(range(len(cases)), [c.get("name", c["case"]) for c in cases])
        axis.legend()
    axes[0][0].invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(folder, found):
    """Draws what was measured."""
    for kind, (name, views) in PICTURES.items():
        cases = [c for c in found["cases"] if c["kind"] == kind and failed(c) is None]
        if cases:
            title = f"{found['machine']['device']}, torch {found['machine']['torch']}"
            draw(cases, title, folder / f"{name}.png", views)
