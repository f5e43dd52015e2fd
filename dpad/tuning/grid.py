"""The configurations of a sweep."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from dpad.decode.suffix import Suffix
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.fields import RULES
from dpad.generation.names import resolve_names
from dpad.values import as_plain, entries, shown

# What `tune` tries unless told otherwise: everything kept first, thinner behind it.
GRID: dict[str, tuple[Any, ...]] = {
    "suffix": (
        Suffix("all"),
        Suffix("gaussian", window=256, decay=4.0, scale=2.0),
        Suffix("gaussian", window=128, density=0.25, near=16),
        Suffix("gaussian", window=64, density=0.25, near=8),
    ),
    "cache": ("none", "prefix"),
    "confidence_threshold": (0.8, 0.9, 0.95),
}
# Options of `generate` that are the sweep's own.
RESERVED = (
    "num_return_sequences",
    "output_history",
    "return_dict_in_generate",
    "row_keys",
    "seed",
    "trace",
)


def configurations(
    grid: Any, base: DPadGenerationConfig | None = None
) -> list[DPadGenerationConfig]:
    """The `DPadGenerationConfig` of each point of a grid, over `base`.

    Args:
        grid: option -> values to try, in every combination; or a sequence of configurations, each a
            `DPadGenerationConfig` or a dict of options.
        base: `DPadGenerationConfig` or None. A commit rule in a point replaces that of the base.

    Raises:
        TypeError, ValueError: a bad or unknown option, one that the sweep sets itself, two equal
            points, or none.
    """
    if base is not None and not isinstance(base, DPadGenerationConfig):
        raise TypeError(f"config is a {type(base).__name__}: expected a DPadGenerationConfig")
    if isinstance(grid, Mapping):
        points = [dict(zip(grid, values, strict=True)) for values in product(*_values(grid))]
    else:
        points = [_point(p) for p in entries("grid", grid, "options and values, or a list")]
    found: list[DPadGenerationConfig] = []
    for point in points:
        config = _over(point, {} if base is None else base.given())
        if config in found:
            raise ValueError(f"grid holds the same point twice: {config!r}")
        found.append(config)
    if not found:
        raise ValueError(f"grid = {grid!r}: expected at least one point")
    return found


def _point(given: Any) -> dict[str, Any]:
    if isinstance(given, DPadGenerationConfig):
        return given.given()
    if not isinstance(given, Mapping):
        raise TypeError(f"grid holds {shown(given)}: expected a configuration or a dict of options")
    return dict(given)


def _values(grid: Mapping[str, Any]) -> Iterator[list[Any]]:
    for name, values in grid.items():
        if isinstance(values, (str, Suffix, Mapping)) or not hasattr(values, "__iter__"):
            raise TypeError(f"grid[{name!r}] = {values!r}: expected a list of values to try")
        yield list(values)


def _over(point: Mapping[str, Any], base: Mapping[str, Any]) -> DPadGenerationConfig:
    point = resolve_names(point)
    for name in RESERVED:
        if name in point or name in base:
            value = point.get(name, base.get(name))
            raise ValueError(f"{name} = {value!r}: the sweep sets it itself")
    if any(point.get(name) is not None for name in RULES):
        base = {name: value for name, value in base.items() if name not in RULES}
    config = DPadGenerationConfig(**{**base, **point})
    if config.infill:
        raise ValueError("infill = True: a sweep checks what follows a prompt")
    return config


def plain(config: DPadGenerationConfig) -> dict[str, Any]:
    """Option -> value of what was chosen, as JSON can hold it: what a point is known by."""
    return {name: as_plain(value) for name, value in config.given().items()}


def label(value: Any) -> str:
    """One option's value as a few words."""
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    words = {n: v for n, v in value.items() if v is not None and n != "grid"}
    kind = words.pop("kind", "")
    shown = (f"{n}={v if isinstance(v, str) else f'{v:g}'}" for n, v in words.items())
    return " ".join([kind, *shown]).strip()


def varying(configs: Sequence[DPadGenerationConfig]) -> list[str]:
    """Names of the options that differ between the configurations."""
    points = [plain(c) for c in configs]
    names = dict.fromkeys(name for point in points for name in point)
    return [n for n in names if any(p.get(n) != points[0].get(n) for p in points)]
