"""Accuracy against cost."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from dpad.plot.style import THEMES, new_figure, themed


@themed
def pareto(tuning: Any, ax: Axes | None = None, *, cost: str | None = None, theme: str) -> Axes:
    """Every point of a sweep, the frontier as a line, the choice as a star.

    Args:
        tuning: `dpad.tuning.Tuning`.
        ax: Axes to draw into; None: a new figure.
        cost: "seconds", "positions" or "forwards"; default: the sweep's.
        theme: "light" (default) or "dark".

    Returns:
        Axes; its lines are the frontier, the choice, and the points of the error bars.

    Raises:
        ValueError: an unknown cost.
    """
    cost = tuning.cost if cost is None else cost
    frontier, best = tuning.frontier(cost), tuning.cheapest(cost=cost)
    ax = ax or new_figure(7, 4.2).add_subplot()
    ax.set(xscale="log", xlabel=f"{cost} per problem", ylabel="right answers [%], 95 % interval")
    ax.plot(*_places(frontier, cost), "-", color=THEMES[theme]["bar"], label="best for the cost")
    ax.plot(*_places([best], cost), "*", color="#E69F00", markersize=16, zorder=3, label="chosen")
    xs, ys = _places(tuning.points, cost)
    bounds = [p.interval for p in tuning.points]
    below = [y - 100 * low for y, (low, _) in zip(ys, bounds, strict=True)]
    above = [100 * high - y for y, (_, high) in zip(ys, bounds, strict=True)]
    style: dict[str, Any] = {
        "fmt": "o",
        "capsize": 2,
        "color": THEMES[theme]["line"],
        "elinewidth": 0.6,
    }
    ax.errorbar(xs, ys, yerr=(below, above), label="configurations", **style)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return ax


def _places(points: Sequence[Any], cost: str) -> tuple[list[float], list[float]]:
    return [getattr(p, cost) for p in points], [100 * p.accuracy for p in points]
