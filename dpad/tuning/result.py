"""What a sweep found: a table, a picture, and the cheapest setting that is good enough."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dpad.generation.config import DPadGenerationConfig
from dpad.generation.html import table
from dpad.tuning.grid import label, plain, varying
from dpad.tuning.intervals import paired_difference, wilson
from dpad.values import real

check_tolerance = partial(real(0, 1), "tolerance")  # a share of the problems
COSTS = ("seconds", "positions", "forwards")
_HEADINGS = ("right %", "95 %", "forwards", "positions", "seconds")


@dataclass(frozen=True)
class Point:
    """One configuration and what it did.

    Args:
        config: `DPadGenerationConfig`.
        right: bool per problem.
        forwards, positions, seconds: per problem. Positions are the rows computed in all passes,
            forwards the model calls of a problem's row.
    """

    config: DPadGenerationConfig
    right: tuple[bool, ...]
    forwards: float
    positions: float
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return sum(self.right) / len(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson's): low, high."""
        return wilson(sum(self.right), len(self.right))


def check_cost(cost: str) -> None:
    """Raises ValueError unless `cost` names a cost of a `Point`."""
    if cost not in COSTS:
        raise ValueError(f"cost = {cost!r}: expected one of {', '.join(COSTS)}")


@dataclass(frozen=True)
class Tuning:
    """Result of `dpad.tune`: prints as a table, `plot` draws it, `best` is the choice.

    Args:
        points: list of `Point`, in the grid's order.
        tolerance, cost: what `best` goes by.
    """

    points: list[Point] = field(default_factory=list)
    tolerance: float = 0.01
    cost: str = "seconds"

    @property
    def best(self) -> Point:
        """The `Point` that `cheapest` finds with this sweep's tolerance and cost."""
        return self.cheapest()

    def cheapest(
        self, tolerance: float | None = None, cost: str | None = None, *, confident: bool = False
    ) -> Point:
        """The `Point` of least cost that is nearly as good as the most accurate one.

        Args:
            tolerance: share of the problems by which it may be worse; default: the sweep's.
            cost: "seconds", "positions" or "forwards"; default: the sweep's.
            confident: the whole 95 % interval of the difference has to lie within the tolerance,
                not its measured value alone. Both configurations solved the same problems, so it is
                the interval of a paired difference (Agresti and Min).

        Raises:
            ValueError: a tolerance that is no share, or an unknown cost.
        """
        tolerance = self.tolerance if tolerance is None else tolerance
        by = self.cost if cost is None else cost
        check_tolerance(tolerance)
        check_cost(by)
        top = min(self.points, key=lambda p: (-sum(p.right), getattr(p, by)))
        good = [top]
        for point in self.points:
            measured, low, _ = paired_difference(point.right, top.right)
            if (low if confident else measured) >= -tolerance - 1e-12:
                good.append(point)
        return min(good, key=lambda p: getattr(p, by))

    def frontier(self, cost: str | None = None) -> list[Point]:
        """The points that no other beats in both accuracy and cost, cheapest first."""
        by = self.cost if cost is None else cost
        check_cost(by)
        found: list[Point] = []
        for point in sorted(self.points, key=lambda p: (getattr(p, by), -sum(p.right))):
            if not found or sum(point.right) > sum(found[-1].right):
                found.append(point)
        return found

    def names(self) -> list[dict[str, str]]:
        """What tells the points apart: a dict of option -> words for each."""
        options = varying([p.config for p in self.points])
        values = [plain(p.config) for p in self.points]
        return [{name: label(v.get(name)) for name in options} for v in values]

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Headings, and a list of texts per point; the choice has a star in front."""
        names, best = self.names(), self.best
        lines = []
        for point, name in zip(self.points, names, strict=True):
            low, high = point.interval
            costs = (
                f"{point.forwards:.2f}",
                f"{point.positions:.0f}",
                f"{point.seconds:.4f}",
            )
            star = "*" if point is best else ""
            share = (f"{100 * point.accuracy:.1f}", f"{100 * low:.1f} to {100 * high:.1f}")
            lines.append([star, *name.values(), *share, *costs])
        return ["", *names[0], *_HEADINGS], lines

    def _caption(self) -> str:
        n = len(self.points[0].right)
        return (
            f"{n} problems; costs per problem; * fewest {self.cost} within "
            f"{100 * self.tolerance:g} % of the problems of the most accurate"
        )

    def __repr__(self) -> str:
        head, lines = self.rows()
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        rows = (
            "  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip()
            for line in (head, *lines)
        )
        return "\n".join([*rows, self._caption()])

    def _repr_html_(self) -> str:
        return f"<div>{table(*self.rows())}<div>{self._caption()}</div></div>"

    def plot(self, ax: Any = None, *, cost: str | None = None, theme: str = "light") -> Any:
        """`dpad.plot.pareto` of this result: accuracy against cost. Returns matplotlib's Axes."""
        from dpad.plot import pareto

        return pareto(self, ax, cost=cost, theme=theme)
