"""The kept suffix (scratchpad) of a block: which future mask tokens stay visible."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dpad import ops
from dpad.values import MOST_POSITIONS, flag, one_of, real, refuse, whole

KINDS = ("none", "all", "gaussian", "uniform", "window")
_OPEN = ("window", "decay", "scale", "density", "count")  # None: not given
_FIELDS = {
    "kind": one_of(*KINDS),
    "window": whole(1, MOST_POSITIONS),
    "decay": real(0, above=True),
    "scale": real(0),
    "density": real(0, 1),
    "count": real(0, MOST_POSITIONS),
    "near": whole(0, MOST_POSITIONS),
    "keep_last": flag,
    "grid": one_of("repo", "paper"),
}


@dataclass(frozen=True)
class Suffix:
    """How the suffix of each block is thinned, before attention (DPad, arXiv 2508.14148, 3.2).

    Args:
        kind: "gaussian" keeps distance d with probability
            ``min(1, scale / sqrt(2 pi) exp(-x^2 / 2))``, x running from 0 to `decay` over the
            window; "uniform" keeps `count` of the window, drawn without replacement; "window" keeps
            the whole window; "all" and "none" keep everything and nothing.
        window: number of candidate positions behind the block.
        decay: k of the gaussian.
        scale: a of the gaussian; or give `density` (share of the window that is expected to be
            kept) or `count` (number), of which the scale follows.
        near: the nearest `near` positions are always kept.
        keep_last: the last position of the canvas is always kept.
        grid: "repo" spaces x as the released code does, "paper" as the paper's equation 7.

    A fresh set is drawn for every block, from (seed, row key, block). No suffix at all collapses
    instruction-tuned LLaDA (77.5 to 24.6 on GSM8K, arXiv 2502.09992, appendix B).

    Raises:
        ValueError: a value out of range, or more than one of scale, density and count.
    """

    kind: str = "gaussian"
    window: int | None = None
    decay: float | None = None
    scale: float | None = None
    density: float | None = None
    count: float | None = None
    near: int = 0
    keep_last: bool = False
    grid: str = "repo"

    def __post_init__(self) -> None:
        for name, kind in _FIELDS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPEN:
                object.__setattr__(self, name, kind(f"Suffix.{name}", value))
        self._check_unused()
        if self.kind in ("none", "all"):
            return
        if self.kind == "gaussian":
            self._fill_gaussian()
        if self.window is None:
            refuse("Suffix.window", None, f"a whole number from 1 to {MOST_POSITIONS}")
        if self.kind == "gaussian" and (self.count or 0) > (self.window or 0):
            refuse("Suffix.count", self.count, f"0 to window {self.window}")
        given = self.count is not None and self.count == int(self.count)
        if self.kind == "uniform" and self.density is None and not given:
            refuse("Suffix.count", self.count, "a whole number >= 0")

    def _check_unused(self) -> None:
        given = [n for n in ("scale", "density", "count") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"Suffix takes one of scale, density and count, got {given}")
        used = {
            "none": (),
            "all": (),
            "window": ("window",),
            "uniform": ("window", "density", "count"),
            "gaussian": ("window", "decay", "scale", "density", "count"),
        }[self.kind]
        for name in ("window", "decay", "scale", "density", "count"):
            if name not in used and getattr(self, name) is not None:
                value = getattr(self, name)
                raise ValueError(f"Suffix.{name} = {value!r} has no meaning for {self.kind!r}")

    def _fill_gaussian(self) -> None:
        if self.window is None:
            object.__setattr__(self, "window", 256)
        if self.decay is None:
            object.__setattr__(self, "decay", 4.0)
        if self.scale is None and self.density is None and self.count is None:
            object.__setattr__(self, "scale", 2.0)

    @property
    def _wanted(self) -> float:
        if self.density is not None:
            wanted = self.density * (self.window or 0)
            return float(round(wanted)) if self.kind == "uniform" else wanted
        return float(self.count or 0)

    def parameters(self) -> dict[str, Any]:
        """Keyword arguments of `dpad.ops.suffix_sample`, except the draw's keys and length."""
        return dict(self._parameters)

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        solve = self.kind == "gaussian" and self.scale is None
        return {
            "kind": self.kind,
            "grid": self.grid,
            "window": self.window or 0,
            "decay": float(self.decay or 0),
            "scale": -1.0 if solve else float(self.scale or 0),
            "count": self._wanted,
            "near": self.near,
            "keep_last": self.keep_last,
        }

    def expected(self, remaining: int) -> float:
        """Expected number of kept positions when `remaining` suffix positions are left."""
        p = self.parameters()
        if self.kind == "uniform" and p["count"] >= remaining:
            return float(remaining)
        p.pop("keep_last")
        table = ops.suffix_table(**p, length=remaining).double() / 2**32
        if self.kind == "uniform":
            drawn = min(remaining, p["window"])
            table[self.near : drawn] = min(1.0, p["count"] / drawn)
        if self.keep_last and remaining:
            table[-1] = 1.0
        return float(table.sum())

    def as_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, for serialisation."""
        defaults = {"near": 0, "keep_last": False, "grid": "repo"}
        names = self.__dataclass_fields__
        values = {n: getattr(self, n) for n in names}
        return {n: v for n, v in values.items() if v is not None and v != defaults.get(n)}
