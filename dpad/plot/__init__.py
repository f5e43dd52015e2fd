"""Pictures of a decoding trace, and of a sweep.

Each function takes a `dpad.Trace` or the name of its file (`pareto`: what `dpad.tune` returned),
draws into `ax` or into a figure of its own, and returns the Axes (``axes.figure.savefig(...)``).
pyplot and its state are not used. `theme` is "light" or "dark". Colours are Okabe and Ito's, and
cividis, which colour-blind people can tell apart. `VIEWS` are the pictures by the names that
``dpad plot --view`` knows.
"""

from dpad.plot.animation import animate
from dpad.plot.pareto import pareto
from dpad.plot.reading import block_states
from dpad.plot.style import STATES, THEMES, new_figure
from dpad.plot.views import (
    confidence_histogram,
    forwards_per_block,
    kept_raster,
    overview,
    reveal_timeline,
)

VIEWS = {
    "overview": overview,
    "kept": kept_raster,
    "timeline": reveal_timeline,
    "confidence": confidence_histogram,
    "forwards": forwards_per_block,
}

__all__ = [
    "STATES",
    "THEMES",
    "VIEWS",
    "animate",
    "block_states",
    "confidence_histogram",
    "forwards_per_block",
    "kept_raster",
    "new_figure",
    "overview",
    "pareto",
    "reveal_timeline",
]
