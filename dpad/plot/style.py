"""Colours and figures: a light and a dark theme."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# State of a position while a block is decoded -> (label, colour by theme); the order is its number.
STATES = {
    "prefix": ("prompt and decoded text", {"light": "#999999", "dark": "#8B949E"}),
    "block": ("current block", {"light": "#0072B2", "dark": "#0072B2"}),
    "kept": ("kept suffix", {"light": "#E69F00", "dark": "#E69F00"}),
    "dropped": ("dropped suffix", {"light": "#F2F2F2", "dark": "#30363D"}),
    "after end": (
        "never computed: the text had ended",
        {"light": "#D9CBE3", "dark": "#5B4470"},
    ),
}
# Names of matplotlib's settings -> which of a theme's colours they take.
_PARTS = {
    "back": ("figure.facecolor", "axes.facecolor", "savefig.facecolor"),
    "ink": ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"),
    "line": ("axes.edgecolor", "legend.edgecolor", "grid.color"),
}
THEMES = {
    "light": {"back": "#FFFFFF", "ink": "#1F2328", "line": "#6E7781", "bar": "#0072B2"},
    "dark": {"back": "#0D1117", "ink": "#E6EDF3", "line": "#8B949E", "bar": "#56B4E9"},
}


Result = TypeVar("Result")


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib Figure of this size in inches, drawn by Agg, unknown to pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def themed(view: Callable[..., Result]) -> Callable[..., Result]:
    """Gives a view the keyword `theme`: its figure, axes and text take that theme's colours."""

    @functools.wraps(view)
    def drawn(*args: Any, theme: str = "light", **kwargs: Any) -> Result:
        if theme not in THEMES:
            raise ValueError(f"theme = {theme!r}: expected one of {', '.join(THEMES)}")
        colours = THEMES[theme]
        settings: dict[Any, Any] = {
            name: colours[part] for part, names in _PARTS.items() for name in names
        }
        with rc_context(settings):
            return view(*args, theme=theme, **kwargs)

    return drawn
