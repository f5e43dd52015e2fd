"""Pictures of a decoding trace.

Each function takes a `dpad.generation.output.Trace` or the name of its file, draws into `ax` or
into a figure of its own, and returns the Axes (``axes.figure.savefig(...)``). pyplot and its state
are not used. Colours are Okabe and Ito's, and cividis, which colour-blind people can tell apart.
"""

import os

import numpy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dpad.generation.output import Trace

# State of a position while a block is decoded -> (label, colour); the order is its number.
STATES = {
    "prefix": ("prompt and decoded text", "#999999"),
    "block": ("current block", "#0072B2"),
    "kept": ("kept suffix", "#E69F00"),
    "dropped": ("dropped suffix", "#F2F2F2"),
    "after end": ("never computed: the text had ended", "#D9CBE3"),
}
_NUMBER = {name: number for number, name in enumerate(STATES)}


def _events(trace, row):
    """(events of the row, prompt length, canvas length, block length)."""
    if isinstance(trace, (str, os.PathLike)):
        trace = Trace.load(trace)
    if not isinstance(trace, Trace):
        raise TypeError(f"trace is a {type(trace).__name__}: expected a Trace or its file's name")
    prompts = trace.header["prompt_lengths"]
    if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < len(prompts):
        raise ValueError(f"row = {row!r}: the trace holds rows 0 to {len(prompts) - 1}")
    config = trace.header["config"]
    events = [event for event in trace.events if event["row"] == row]
    total = prompts[row] + config["max_new_tokens"]
    return events, prompts[row], total, config["block_length"]


def new_figure(width, height):
    """An empty matplotlib Figure of this size in inches, drawn by Agg, unknown to pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def block_states(trace, row=0):
    """What each block could see: a list per block of a list per position of keys of `STATES`.

    Args:
        trace: `Trace` or the name of its file; row: row of the batch.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    events, prompt, total, width = _events(trace, row)
    kept = {e["block"]: set(e["kept"]) for e in events if e["kept"] is not None}
    states = []
    for block, start in enumerate(range(prompt, total, width)):
        end = min(start + width, total)
        if block not in kept:
            states.append(["after end"] * total)
            continue
        behind = ["kept" if p in kept[block] else "dropped" for p in range(end, total)]
        states.append(["prefix"] * start + ["block"] * (end - start) + behind)
    return states


def kept_raster(trace, row=0, ax=None):
    """Which positions each block could see: one line per block, one column per position.

    Beside each line stands how many suffix positions were kept, of how many.

    Args:
        trace: `Trace` or the name of its file.
        row: row of the batch.
        ax: Axes to draw into; None: a new figure.

    Returns:
        Axes; ``images[0]`` holds the numbers of the `STATES`, ``[blocks, canvas length]``.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    states = block_states(trace, row)
    ax = ax or new_figure(9, 1.2 + 0.22 * max(len(states), 6)).add_subplot()
    colours = ListedColormap([colour for _, colour in STATES.values()])
    norm = BoundaryNorm([n - 0.5 for n in range(len(STATES) + 1)], len(STATES))
    numbers = [[_NUMBER[state] for state in line] for line in states]
    ax.imshow(numbers, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 7}
    for block, line in enumerate(states):
        kept, dropped = line.count("kept"), line.count("dropped")
        if kept + dropped:
            ax.annotate(f"{kept}/{kept + dropped}", (1.005, block), **place)
    present = {state for line in states for state in line}
    legend = [
        Patch(facecolor=colour, edgecolor="#666666", linewidth=0.5, label=label)
        for name, (label, colour) in STATES.items()
        if name in present
    ]
    ax.legend(
        handles=legend, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8
    )
    ax.set(xlabel="position", ylabel="block")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def reveal_timeline(trace, row=0, ax=None):
    """When each position was committed, coloured by its confidence; below, tokens per forward.

    Args:
        trace: `Trace` or the name of its file.
        row: row of the batch.
        ax: Axes to draw into; None: a new figure.

    Returns:
        Axes; ``images[0]`` holds the confidences, ``[positions, forwards]``, masked where nothing
        was committed, from the prompt's end to the end of the last block that was reached;
        ``child_axes[0]`` holds the bars.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    events, prompt, total, width = _events(trace, row)
    blocks = 1 + max((event["block"] for event in events), default=0)
    end = min(prompt + blocks * width, total)
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
    for start in range(prompt, end, width):
        ax.axhline(start - 0.5, color="#CCCCCC", linewidth=0.6)
    ax.set(ylabel="position")
    ax.tick_params(labelbottom=False)
    ax.figure.colorbar(shown, ax=ax, pad=0.01, label="confidence")
    bars = ax.inset_axes((0, -0.28, 1, 0.24), sharex=ax)
    counts = [len(event["positions"]) for event in events]
    bars.bar(range(len(events)), counts, color="#0072B2")
    bars.set(xlabel="forward", ylabel="tokens")
    bars.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def overview(trace, row=0, timeline=None):
    """`kept_raster` above `reveal_timeline`, the latter of another trace if `timeline` names one.

    Returns:
        matplotlib Figure; its first two Axes are those of the two pictures.
    """
    blocks = len(block_states(trace, row))
    figure = new_figure(10, 6 + 0.2 * blocks)
    above, below = figure.subplots(2, 1, height_ratios=(max(blocks, 6), 16))
    kept_raster(trace, row, above)
    reveal_timeline(trace if timeline is None else timeline, row, below)
    return figure
