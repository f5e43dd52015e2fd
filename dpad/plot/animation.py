"""The denoising as it went: every forward is a frame."""

from pathlib import Path
from typing import Any

from matplotlib.animation import PillowWriter
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dpad.generation.output import Trace
from dpad.plot.reading import events_of
from dpad.plot.style import THEMES, new_figure, themed
from dpad.values import real

COLUMNS = 32  # positions in a line
_CELL = 0.26  # inches
_SCALE = Normalize(0, 1)


@themed
def animate(
    trace: Any, path: str | Path, row: int = 0, *, per_second: float = 4.0, theme: str
) -> None:
    """Writes an animation of the commits, one frame per forward; the last one stays for a while.

    A ``.gif`` shows the canvas as a grid, 32 positions to a line, coloured by confidence. An
    ``.html`` is a page of its own without scripts or links, with the text and, under the pointer,
    what is known of each token. Token texts appear where the trace has them (`Trace.with_text`).

    Args:
        trace: `Trace` or the name of its file.
        path: file to write, ``.gif`` or ``.html``.
        row: row of the batch.
        per_second: forwards shown per second.
        theme: "light" (default) or "dark"; an ``.html`` follows the reader's own.

    Raises:
        TypeError, ValueError: not a trace, a row that it does not hold, or another kind of file.
    """
    path = Path(path)
    if path.suffix not in (".gif", ".html"):
        raise ValueError(f"path = {str(path)!r}: expected .gif or .html")
    trace = trace if isinstance(trace, Trace) else Trace.load(trace)
    if path.suffix == ".html":
        trace.animation(row, per_second).save(path)
        return
    per_second = real(0, above=True)("per_second", per_second)
    events, prompt, total, _ = events_of(trace, row)
    figure, cells, words = _grid(total - prompt, theme)
    names = trace.header.get("texts", {})
    map_ = ScalarMappable(_SCALE, "cividis")
    frames: Any = per_second  # whole ones, by its type; others work
    writer = PillowWriter(fps=frames)
    with writer.saving(figure, path, dpi=100):
        writer.grab_frame()
        for event in events:
            values = zip(event["positions"], event["tokens"], event["confidence"], strict=True)
            for position, token, confidence in values:
                cells[position - prompt].set(facecolor=map_.to_rgba(confidence), alpha=1)
                word = words[position - prompt]
                word.set_text(_short(names.get(str(token), "")))
                word.set_color("#FFFFFF" if confidence < 0.6 else "#000000")
            figure.axes[0].set_title(f"forward {event['forward'] + 1}", loc="left", size=9)
            writer.grab_frame()
        for _ in range(max(1, round(1.5 * per_second))):
            writer.grab_frame()


def _short(text: str) -> str:
    """A token's text in one cell: at most three characters, spaces and line ends visible."""
    text = text.replace("\n", "\u21b5").replace(" ", "\u2423")
    return text if len(text) <= 3 else text[:2] + "\u2026"


def _grid(length: int, theme: str) -> tuple[Figure, list[Any], list[Any]]:
    """(figure, cell per position, its text), nothing committed."""
    lines = -(-length // COLUMNS)
    figure = new_figure(COLUMNS * _CELL + 0.2, lines * _CELL + 0.5)
    ax = figure.add_subplot(xlim=(0, COLUMNS), ylim=(lines, 0), aspect="equal")
    ax.set_axis_off()
    empty: dict[str, Any] = {"facecolor": THEMES[theme]["line"], "alpha": 0.18, "linewidth": 0}
    cells, words = [], []
    for position in range(length):
        line, column = divmod(position, COLUMNS)
        cells.append(ax.add_patch(Rectangle((column + 0.05, line + 0.05), 0.9, 0.9, **empty)))
        middle = (column + 0.5, line + 0.52)
        words.append(ax.text(*middle, "", ha="center", va="center", size=6.5, parse_math=False))
    ax.set_title("nothing committed", loc="left", size=9)
    return figure, cells, words
