"""The demonstration behind ``dpad demo``: a race in two panes, then what it cost, in figures."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dpad.demo import panes, report
from dpad.demo.race import Ordinary, Solver, race
from dpad.demo.task import load, problems

if TYPE_CHECKING:
    from torch import nn

FRAMES_PER_SECOND = 12
LINE_EVERY = 2.0  # seconds, without a terminal
EXACT_PROBLEMS, EXACT_CANVAS = 20, 64
EXACT_SECONDS = 10.0  # a slow or busy machine compares fewer problems, and says so


def demonstrate(
    seconds: float = 10.0,
    canvas: int = 512,
    picture: bool | str | Path = True,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs the demonstration on the shipped model.

    Args:
        seconds: wall time of the race.
        canvas: generated tokens per problem, 64 to 900 (answers need up to 61).
        picture: draw one: True, False, or the path of the file.
        seed: of the problems.
        console: rich Console to show everything on; None shows nothing.

    Returns:
        dict of plain values: canvas, threads, race, rows, exact, picture (path or None), seconds,
        python (three lines for LLaDA-8B).

    Raises:
        ValueError: `seconds` or `canvas` out of range.
    """
    import torch

    import dpad

    if not 0 <= seconds <= 3600:
        raise ValueError(f"seconds = {seconds!r}: expected 0 to 3600")
    if isinstance(canvas, bool) or not isinstance(canvas, int) or not 64 <= canvas <= 900:
        raise ValueError(f"canvas = {canvas!r}: expected 64 to 900")
    begun = time.perf_counter()
    console = console or Console(quiet=True)
    console.print("loading the shipped tiny LLaDA ...", highlight=False)
    stock, model = load()[0], load()[0]
    with dpad.patch(model):
        ordinary, solver = _warm(stock, model, canvas, seed)
        _show_race(ordinary, solver, seconds, console)
        found: dict[str, Any] = {"canvas": canvas, "threads": torch.get_num_threads()}
        found["race"] = _counts(ordinary, solver)
        found["rows"] = report.rows(ordinary.first, problems(1, seed)[0], model)
        _show_rows(found["rows"], console)
        found["exact"] = _exact(stock, model, seed, console)
        found["picture"] = _picture(model, canvas, picture, seed, console)
    found["python"] = list(report.THREE_LINES)
    found["seconds"] = time.perf_counter() - begun
    _show_end(found, console)
    return found


def _warm(
    stock: "nn.Module", model: "nn.Module", canvas: int, seed: int
) -> tuple[Ordinary, Solver]:
    """Both sides, after one problem or step each that no clock counts."""
    other = problems(1, seed=f"warm-{seed}", split="train")
    options = {**report.ALL, "trace": True}
    Ordinary(stock, other, canvas).step()
    Solver(model, other, canvas, options).solve()
    found = problems(2000, seed)
    return Ordinary(stock, found, canvas), Solver(model, found, canvas, options)


def _counts(ordinary: Ordinary, solver: Solver) -> dict[str, dict[str, Any]]:
    sides: dict[str, dict[str, Any]] = {}
    for name, side in (("ordinary", ordinary), ("dpad", solver)):
        sides[name] = {"solved": side.solved, "right": side.right, "seconds": side.seconds}
    sides["ordinary"]["steps_of_current"] = ordinary.decoder.steps
    sides["dpad"]["first_seconds"] = solver.first_seconds
    return sides


def _show_race(ordinary: Ordinary, solver: Solver, seconds: float, console: Console) -> None:
    begun = time.perf_counter()
    if not console.is_terminal or console.is_dumb_terminal:
        due = begun + LINE_EVERY
        for _ in race(ordinary, solver, seconds):
            now = time.perf_counter()
            if now >= due and now < begun + seconds:
                due += LINE_EVERY
                _show_line(ordinary, solver, now - begun, console)
        _show_line(ordinary, solver, time.perf_counter() - begun, console)
        return
    ascii_only = console.options.ascii_only

    def draw() -> Table:
        return panes.frame(ordinary, solver, console.width, console.height, ascii_only)

    with Live(console=console, auto_refresh=False) as live:
        shown = 0.0
        for _ in race(ordinary, solver, seconds):
            now = time.perf_counter()
            if ordinary.seconds and now - shown >= 1 / FRAMES_PER_SECOND:
                shown = now
                live.update(draw(), refresh=True)
        live.update(draw(), refresh=True)


def _show_line(ordinary: Ordinary, solver: Solver, seconds: float, console: Console) -> None:
    left, right = panes.ordinary_status(ordinary), panes.dpad_status(solver)
    text = f"{seconds:5.1f} s  ordinary: {left[0]}, {left[1]}  |  dpad: {right[1]}"
    console.print(text, highlight=False, soft_wrap=True)


def _show_rows(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, title_justify="left", header_style="bold")
    table.add_column("one problem", no_wrap=True)
    for name in ("answer", "tokens", "forwards", "positions", "seconds", "faster"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        answer = {True: "right", False: "wrong", None: "not yet"}[row["right"]]
        counts = (f"{row[name]:,}" for name in ("tokens", "forwards", "positions"))
        projected = row.get("steps_timed", row["forwards"]) < row["forwards"]
        seconds = f"{row['seconds']:.3g}" + ("*" if projected else "")
        table.add_row(row["name"], answer, *counts, seconds, f"{row['ratio']:.1f} x")
    console.print()
    console.print(table)
    timed, steps = rows[0]["steps_timed"], rows[0]["forwards"]
    if timed < steps:
        console.print(
            f"* {timed} of {steps} equal steps were timed, the rest counted at their mean",
            style="dim",
            highlight=False,
        )


def _exact(stock: "nn.Module", model: "nn.Module", seed: int, console: Console) -> dict[str, Any]:
    found = problems(EXACT_PROBLEMS, seed)
    with console.status("exact mode against the ordinary decoder ..."):
        result = report.exact(stock, model, found, EXACT_CANVAS, EXACT_SECONDS)
    text = f"\nexact mode: {result['identical']} of {result['of']} token-identical"
    if result["of"] < EXACT_PROBLEMS:
        text += f" ({EXACT_PROBLEMS} wanted, {EXACT_SECONDS:.0f} s were over)"
    console.print(text, highlight=False)
    return result


def _picture(
    model: "nn.Module", canvas: int, wanted: bool | str | Path, seed: int, console: Console
) -> str | None:
    """Path of the picture as text, or None; matplotlib may be missing."""
    if wanted is False:
        return None
    try:
        path = report.picture(
            model, problems(1, seed)[0], canvas, None if wanted is True else wanted
        )
    except ModuleNotFoundError as error:
        text = f"no picture: {error}; type: pip install matplotlib"
        console.print(text, markup=False, soft_wrap=True)
        return None
    console.print(f"picture: {path}", highlight=False, markup=False, soft_wrap=True)
    return str(path)


def _show_end(found: dict[str, Any], console: Console) -> None:
    race_counts = found["race"]["dpad"]
    share = race_counts["right"] / race_counts["solved"]
    console.print(
        f"dpad in the race: {race_counts['right']} of {race_counts['solved']} right "
        f"({share:.1%}), {found['threads']} threads, {found['seconds']:.0f} s in all",
        highlight=False,
    )
    console.print("\nThe same for LLaDA-8B (not run on the released weights):")
    for line in found["python"]:
        console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
