"""The two panes of the demonstration: the canvases of both decoders as coloured text."""

import itertools
from collections.abc import Sequence

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dpad.demo.race import Ordinary, OrdinaryDecoder, Solver
from dpad.demo.task import ASSISTANT, END_ID, MASK_ID, USER, VOCABULARY, Problem
from dpad.generation.output import DPadOutput

# What a position shows: glyph (None: the token itself), the same in ASCII, style.
LOOKS = {
    "committed": (None, None, "bold"),
    "end": ("▪", "$", "green"),
    "mask": ("░", "?", "bright_black"),
    "kept": ("█", "#", "bright_yellow"),
    "dropped": ("·", ".", "dim"),
}
Look = tuple[int, str]  # token, key of `LOOKS`
LEGEND = {
    "committed": "committed",
    "end": "end of text",
    "mask": "mask",
    "kept": "kept suffix",
    "dropped": "dropped, never computed",
}


def ordinary_looks(decoder: OrdinaryDecoder) -> list[Look]:
    """(token, key of `LOOKS`) for every position of an `OrdinaryDecoder`'s canvas."""
    return [(token, _look(token)) for token in decoder.answers[0].tolist()]


def dpad_looks(problem: Problem, output: DPadOutput) -> list[Look]:
    """(token, key of `LOOKS`) for every position of a `DPadOutput` with a trace.

    As the last pass saw it: tokens that the model committed, kept suffix, and the rest.
    """
    prompt = len(problem.prompt_ids)
    events = output.trace.events if output.trace is not None else []
    committed = {p for event in events for p in event["positions"]}
    kept = set(output.kept_suffix[0][-1].tolist())
    tokens = output.sequences[0].tolist()
    return [
        (tokens[p], _look(tokens[p]) if p in committed else "kept" if p in kept else "dropped")
        for p in range(prompt, len(tokens))
    ]


def _look(token: int) -> str:
    return {MASK_ID: "mask", END_ID: "end"}.get(token, "committed")


def question(problem: Problem) -> str:
    """A prompt without its special tokens."""
    user, start = problem.prompt.split(USER)[1].split(ASSISTANT)
    return f"{user} {start}"


def canvas_text(looks: Sequence[Look], width: int, height: int, ascii_only: bool = False) -> Text:
    """The canvas as rich Text, `width` characters a line, cut after `height` lines."""
    lines = [looks[first : first + width] for first in range(0, len(looks), width)]
    text = Text()
    for number, line in enumerate(lines[:height]):
        if number:
            text.append("\n")
        for look, run in itertools.groupby(line, key=lambda place: place[1]):
            glyph, plain, style = LOOKS[look]
            glyph = plain if ascii_only else glyph
            text.append("".join(glyph or VOCABULARY[token] for token, _ in run), style)
    if len(lines) > height:
        text.append(f"\n... {len(looks) - width * height} more", "dim")
    return text


def legend(ascii_only: bool = False) -> Text:
    """One line that explains the glyphs."""
    text = Text()
    for look, words in LEGEND.items():
        glyph, plain, style = LOOKS[look]
        text.append((plain if ascii_only else glyph) or "4a", style)
        text.append(f" {words}  ")
    return text


def ordinary_status(ordinary: Ordinary) -> tuple[str, str]:
    """(progress, counts) of the left side, as two lines."""
    decoder = ordinary.decoder
    return (
        f"step {decoder.steps} of {decoder.canvas}",
        f"{ordinary.solved} solved, {ordinary.right} right in {ordinary.seconds:.1f} s",
    )


def dpad_status(solver: Solver) -> tuple[str, str]:
    """(progress, counts) of the right side, as two lines."""
    return (
        f"the first took {solver.first_seconds:.2f} s, "
        f"now {int(solver.output.forwards[0])} forwards each",
        f"{solver.solved} solved, {solver.right} right in {solver.seconds:.1f} s",
    )


def frame(
    ordinary: Ordinary, solver: Solver, width: int, height: int, ascii_only: bool = False
) -> Table:
    """Both panes and the legend, for a terminal of `width` columns and `height` lines."""
    inner = max(8, width // 2 - 4)
    lines = max(1, height - 9)
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    sides = (
        (ordinary.problem, ordinary_looks(ordinary.decoder), ordinary_status(ordinary)),
        (solver.problem, dpad_looks(solver.problem, solver.output), dpad_status(solver)),
    )
    titles = ("ordinary decoding, one token per step", "dpad")
    panels = []
    for title, (problem, looks, status) in zip(titles, sides, strict=True):
        head = Text(f"{question(problem)}\n", style="italic", no_wrap=True, overflow="ellipsis")
        body = canvas_text(looks, inner, lines, ascii_only)
        tail = Text("\n" + "\n".join(status), no_wrap=True, overflow="ellipsis")
        panels.append(Panel(Text.assemble(head, body, tail), title=title))
    grid.add_row(*panels)
    outer = Table.grid()
    outer.add_row(grid)
    outer.add_row(legend(ascii_only))
    return outer
