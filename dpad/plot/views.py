"""The pictures that do not move."""

from collections import Counter
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dpad.plot.reading import block_states, events_of, spans_of
from dpad.plot.style import STATES, THEMES, new_figure, themed

_NUMBER = {name: number for number, name in enumerate(STATES)}
_BINS = 20


@themed
def kept_raster(trace: Any, row: int = 0, ax: Axes | None = None, *, theme: str) -> Axes:
    """Which positions each block could see: one line per block, one column per position.

    Beside each line stands how many suffix positions were kept, of how many.

    Args:
        trace: `Trace` or the name of its file.
        row: row of the batch.
        ax: Axes to draw into; None: a new figure.
        theme: "light" (default) or "dark".

    Returns:
        Axes; ``images[0]`` holds the numbers of the `STATES`, ``[blocks, canvas length]``.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    states = block_states(trace, row)
    ax = ax or new_figure(9, 1.2 + 0.22 * max(len(states), 6)).add_subplot()
    colours = ListedColormap([colour[theme] for _, colour in STATES.values()])
    norm = BoundaryNorm([n - 0.5 for n in range(len(STATES) + 1)], len(STATES))
    numbers = [[_NUMBER[state] for state in line] for line in states]
    ax.imshow(numbers, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 7}
    for block, line in enumerate(states):
        kept, dropped = line.count("kept"), line.count("dropped")
        if kept + dropped:
            ax.annotate(f"{kept}/{kept + dropped}", (1.005, block), **place)
    present = {state for line in states for state in line}
    legend = [
        Patch(facecolor=colour[theme], edgecolor="#666666", linewidth=0.5, label=label)
        for name, (label, colour) in STATES.items()
        if name in present
    ]
    ax.legend(
        handles=legend, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8
    )
    ax.set(xlabel="position", ylabel="block")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


@themed
def reveal_timeline(trace: Any, row: int = 0, ax: Axes | None = None, *, theme: str) -> Axes:
    """When each position was committed, coloured by its confidence; below, tokens per forward.

    Args:
        trace: `Trace` or the name of its file.
        row: row of the batch.
        ax: Axes to draw into; None: a new figure.
        theme: "light" (default) or "dark".

    Returns:
        Axes; ``images[0]`` holds the confidences, ``[positions, forwards]``, masked where nothing
        was committed, from the prompt's end to the end of the last block that was reached;
        ``child_axes[0]`` holds the bars.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    events, prompt, total, width = events_of(trace, row)
    spans = list(dict.fromkeys(event["span"] for event in events)) or [(prompt, prompt + width)]
    end = min(max(end for _, end in spans), total)
    confidence = numpy.ma.masked_all((end - prompt, max(len(events), 1)))
    for column, event in enumerate(events):
        confidence[[p - prompt for p in event["positions"]], column] = event["confidence"]
    ax = ax or new_figure(9, 4.5).add_subplot()
    shown = ax.imshow(
        confidence,
        cmap="cividis",
        norm=Normalize(0, 1),
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, confidence.shape[1] - 0.5, end - 0.5, prompt - 0.5),
    )
    for start, _ in spans:
        ax.axhline(start - 0.5, color=THEMES[theme]["line"], linewidth=0.5, alpha=0.5)
    ax.set(ylabel="position")
    ax.tick_params(labelbottom=False)
    ax.figure.colorbar(shown, ax=ax, pad=0.01, label="confidence")
    bars = ax.inset_axes((0, -0.28, 1, 0.24), sharex=ax)
    counts = [len(event["positions"]) for event in events]
    bars.bar(range(len(events)), counts, color=THEMES[theme]["bar"])
    bars.set(xlabel="forward", ylabel="tokens")
    bars.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


@themed
def confidence_histogram(trace: Any, row: int = 0, ax: Axes | None = None, *, theme: str) -> Axes:
    """How sure the model was of the tokens it committed: tokens per confidence, on a log scale.

    Args:
        trace: `Trace` or the name of its file.
        row: row of the batch.
        ax: Axes to draw into; None: a new figure.
        theme: "light" (default) or "dark".

    Returns:
        Axes; its patches are 20 bars from 0 to 1.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    events, *_ = events_of(trace, row)
    values = [value for event in events for value in event["confidence"]]
    ax = ax or new_figure(6, 3.2).add_subplot()
    ax.hist(values, bins=_BINS, range=(0, 1), color=THEMES[theme]["bar"], rwidth=0.92)
    ax.set(xlabel="confidence when committed", ylabel="tokens", xlim=(0, 1))
    if values:
        ax.set_yscale("log", nonpositive="clip")
        ax.set_ylim(bottom=0.7)
    return ax


@themed
def forwards_per_block(trace: Any, row: int = 0, ax: Axes | None = None, *, theme: str) -> Axes:
    """How many forwards each block took; a block that was never reached has none.

    Args:
        trace: `Trace` or the name of its file.
        row: row of the batch.
        ax: Axes to draw into; None: a new figure.
        theme: "light" (default) or "dark".

    Returns:
        Axes; its patches are one bar per block of the canvas.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    events, prompt, total, width = events_of(trace, row)
    spans = Counter(event["span"] for event in events)
    counts = [spans[span] for span in spans_of(events, prompt, total, width)]
    ax = ax or new_figure(6, 3.2).add_subplot()
    ax.bar(range(len(counts)), counts, color=THEMES[theme]["bar"])
    ax.set(xlabel="block", ylabel="forwards")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return ax


@themed
def overview(trace: Any, row: int = 0, timeline: Any = None, *, theme: str) -> Figure:
    """`kept_raster` above `reveal_timeline`, the latter of another trace if `timeline` names one.

    Returns:
        matplotlib Figure; its first two Axes are those of the two pictures.
    """
    blocks = len(block_states(trace, row))
    figure = new_figure(10, 6 + 0.2 * blocks)
    above, below = figure.subplots(2, 1, height_ratios=(max(blocks, 6), 16))
    kept_raster(trace, row, above, theme=theme)
    reveal_timeline(trace if timeline is None else timeline, row, below, theme=theme)
    return figure
