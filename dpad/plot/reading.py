"""What the pictures read from a trace."""

import os
from typing import Any

from dpad.generation.output import Trace
from dpad.generation.trace_file import new_tokens

Span = tuple[int, int]


def events_of(trace: Any, row: int) -> tuple[list[dict[str, Any]], int, int, int]:
    """(events of the row, prompt length, canvas length, block length). Each event has its "span",
    (start, end) of its block; files of older versions of dpad divide the canvas evenly.

    Raises:
        TypeError, ValueError: not a trace or the name of its file, or a row that it does not hold.
    """
    if isinstance(trace, (str, os.PathLike)):
        trace = Trace.load(trace)
    if not isinstance(trace, Trace):
        raise TypeError(f"trace is a {type(trace).__name__}: expected a Trace or its file's name")
    prompts = trace.header["prompt_lengths"]
    if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < len(prompts):
        raise ValueError(f"row = {row!r}: the trace holds rows 0 to {len(prompts) - 1}")
    config = trace.header["config"]
    total, width = prompts[row] + new_tokens(trace.header), config["block_length"]
    events = []
    for event in trace.events:
        if event["row"] == row:
            start = prompts[row] + event["block"] * width
            span = event.get("span", (start, min(start + width, total)))
            events.append({**event, "span": tuple(span)})
    return events, prompts[row], total, width


def spans_of(events: list[dict[str, Any]], prompt: int, total: int, width: int) -> list[Span]:
    """(start, end) of the blocks: those that were decoded, in order, and those never reached."""
    spans = list(dict.fromkeys(event["span"] for event in events))
    reached = max((end for _, end in spans), default=prompt)
    return spans + [(start, min(start + width, total)) for start in range(reached, total, width)]


def block_states(trace: Any, row: int = 0) -> list[list[str]]:
    """What each block could see: a list per block of a list per position of keys of `STATES`.

    Args:
        trace: `Trace` or the name of its file; row: row of the batch.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    events, prompt, total, width = events_of(trace, row)
    kept = {e["span"]: set(e["kept"]) for e in events if e["kept"] is not None}
    states = []
    for start, end in spans_of(events, prompt, total, width):
        seen = kept.get((start, end))
        if seen is None:
            states.append(["after end"] * total)
            continue
        behind = ["kept" if p in seen else "dropped" for p in range(end, total)]
        states.append(["prefix"] * start + ["block"] * (end - start) + behind)
    return states
