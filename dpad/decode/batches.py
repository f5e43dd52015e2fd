"""Who goes through the model together: the sequences of a step in batches, one for each pass."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from dpad.decode.graphs import Graphs
from dpad.decode.lane import Lane
from dpad.decode.layout import Layout
from dpad.decode.phases import is_short
from dpad.decode.sequence import Sequence

# A pass is long if it has more rows than these, and than so many times a typical one's.
LONG_ROWS, LONG = 128, 4


@dataclass
class Batch:
    """The sequences of one pass of a step, whether a graph may replay it, and its layout."""

    live: list[Sequence]
    captured: bool = False
    layout: Layout | None = None


def grouped(sequences: Iterable[Sequence], name: str) -> Iterable[tuple[Any, list[Sequence]]]:
    """(value, sequences) for each value of an attribute, in the order of their first ones."""
    found: dict[Any, list[Sequence]] = {}
    for q in sequences:
        found.setdefault(getattr(q, name), []).append(q)
    return found.items()


def batches_of(ready: list[Sequence], graphs: Graphs) -> list[Batch]:
    """The batches of a step: sequences that share a lane go together.

    Passes that a graph may replay go apart from the others, except where a caller looks on, who
    would see two steps.
    """
    batches: dict[tuple[Lane, bool, bool], list[Sequence]] = {}
    eager = {q for q in ready if not replayable(q, graphs)} if graphs.active else set(ready)
    looked_at = {q.hooks for q in eager if q.hooks.on_step is not None}
    for q in ready:
        captured = q not in eager and q.hooks not in looked_at
        unseen = q.hooks.on_step is not None and not q.width  # nothing to look at
        batches.setdefault((q.lane, captured, unseen), []).append(q)
    return [
        Batch([q for _, same in grouped(live, "hooks") for q in same], captured)
        for (_, captured, _), live in batches.items()
    ]


def replayable(q: Sequence, graphs: Graphs) -> bool:
    """Whether a graph may replay the next pass of a sequence."""
    return graphs.active and is_short(q) and not q.obstacle()


def spread_over_steps(
    ready: list[Sequence], begun: Collection[Sequence], spreads: bool, graphs: Graphs
) -> list[Sequence]:
    """The sequences whose pass takes several steps: it has `begun`, or it is long beside those of
    the others and not replayed.
    """
    if not spreads or len(ready) < 2:
        return [q for q in ready if q in begun]
    rows = {q: q.rows for q in ready}
    typical = sorted(rows.values())[(len(rows) - 1) // 2]
    most = max(LONG_ROWS, LONG * typical)
    return [q for q in ready if q in begun or (rows[q] > most and not replayable(q, graphs))]
