"""What the pictures read from a trace."""

import os
from typing import Any

from dpad.generation.output import Trace


def events_of(trace: Any, row: int) -> tuple[list[dict[str, Any]], int, int, int]:
    """(events of the row, prompt length, canvas length, block length).

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
    events = [event for event in trace.events if event["row"] == row]
    total = prompts[row] + config["max_new_tokens"]
    return events, prompts[row], total, config["block_length"]


def block_states(trace: Any, row: int = 0) -> list[list[str]]:
    """What each block could see: a list per block of a list per position of keys of `STATES`.

    Args:
        trace: `Trace` or the name of its file; row: row of the batch.

    Raises:
        TypeError, ValueError: not a trace, or a row that it does not hold.
    """
    events, prompt, total, width = events_of(trace, row)
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
