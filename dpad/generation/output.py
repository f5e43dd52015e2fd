"""What a decoding run returns on request, and the trace as JSON lines."""

import json
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import ModelOutput

from dpad.generation import trace_file
from dpad.generation.html import Html, animation_html, output_html, trace_html
from dpad.generation.trace_file import FORMAT as TRACE_FORMAT
from dpad.generation.trace_file import VERSION as TRACE_VERSION
from dpad.values import real

__all__ = ["TRACE_FORMAT", "TRACE_VERSION", "DPadOutput", "Trace", "row_events"]

# Stands where Transformers wants a default, in fields that every output has.
_GIVEN: Any = None


@dataclass
class DPadOutput(ModelOutput):
    """Result of `dpad.generate(..., return_dict_in_generate=True)`.

    Args:
        sequences: int64 ``[batch, prompt columns + new tokens]``: the input columns unchanged, then
            the answer; behind a row's first end id everything is padding. With `length` there are
            as many new columns as the longest answer has.
        seed: the seed in force.
        forwards: int64 ``[batch]``, model calls of each row, refreshes included.
        tokens_per_forward: float64 ``[batch]``, tokens committed by the model per forward.
        kept_suffix: per row and block, the kept suffix positions (int64, counted from the row's
            first token that is not padding); as often as they were drawn, where a row grows.
        finish_reason: per row, "stop" (an end id in a finished block), "criteria" (a stopping
            criterion) or "length".
        timings: seconds: total, plan, forward, commit (host time; on a GPU the work that a phase
            has queued may run in a later one), and positions, the rows computed in all passes.
        trace: `Trace` if asked for.
        history: int64 ``[batch, columns]`` after each step, if asked for.
        refined: with `refine`, int64 ``[batch, 2]``: tokens that were masked again, and how many of
            them came back the same.
    """

    sequences: torch.Tensor = _GIVEN
    seed: int = _GIVEN
    forwards: torch.Tensor = _GIVEN
    tokens_per_forward: torch.Tensor = _GIVEN
    kept_suffix: list[list[torch.Tensor]] = _GIVEN
    finish_reason: list[str] = _GIVEN
    timings: dict[str, float] = _GIVEN
    trace: "Trace | None" = None
    history: tuple[torch.Tensor, ...] | None = None
    refined: torch.Tensor | None = None

    def __post_init__(self) -> None:
        pass  # every field that is set is an entry already

    def __setattr__(self, name: str, value: Any) -> None:
        # As in Transformers, which lists the fields anew for each of them.
        if value is not None and name in self.__dataclass_fields__:
            OrderedDict.__setitem__(self, name, value)
        object.__setattr__(self, name, value)

    def _repr_html_(self) -> str:
        return output_html(self)


@dataclass
class Trace:
    """One event per forward of each row, in order; `save` writes versioned JSON lines.

    An event holds: row, forward (of that row), block and its span (start and end), positions and
    tokens that were committed, their confidence, kept (suffix positions, where they were drawn
    before this forward, else null), time (seconds since the start). Where tokens moved after a
    forward, or masks came back, its event holds canvas: runs [first, count] of positions that the
    new canvas takes over in this order, first -1 for what is new. Positions of tokens are those of
    the last canvas, counted from the row's first token that is not padding. The header holds
    format, version, seed, prompt_lengths, config, with gaps new_tokens (the most positions from a
    row's first gap on), and texts, the text of each token id that was committed, if `with_text` was
    called. Notebooks show a trace as its tokens, coloured by the forward that committed them.
    """

    header: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)

    def with_text(self, tokenizer: Any) -> "Trace":
        """The same trace with the tokens' texts, each decoded by itself; it is changed in place."""
        ids = sorted({token for event in self.events for token in event["tokens"]})
        self.header["texts"] = {str(token): tokenizer.decode([token]) for token in ids}
        return self

    def animation(self, row: int = 0, per_second: float = 4.0) -> Html:
        """`Html` of one row's tokens appearing as they were committed, `per_second` forwards.

        Raises:
            ValueError: a row that the trace does not hold, or a speed that is not above 0.
        """
        count = len(self.header["prompt_lengths"])
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < count:
            raise ValueError(f"row = {row!r}: the trace holds rows 0 to {count - 1}")
        per_second = real(0, above=True)("per_second", per_second)
        return Html(animation_html(self, row, per_second))

    def _repr_html_(self) -> str:
        return trace_html(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the header and one event per line."""
        with open(path, "w", encoding="utf-8") as file:
            for record in (self.header, *self.events):
                file.write(json.dumps(record) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trace":
        """Reads what `save` wrote.

        Raises:
            OSError: no such file.
            ValueError: no trace of this format and version, or an event that does not fit its
                header; the message holds the file and the line.
        """
        return cls(*trace_file.read(path))


def runs(source: torch.Tensor) -> list[list[int]]:
    """A source of `dpad.decode.replan.Change` as runs [first position or -1, count]."""
    found: list[list[int]] = []
    for at in source.tolist():
        first, count = found[-1] if found else (0, 0)
        if count and at == (first + count if first >= 0 else -1):
            found[-1][1] += 1
        else:
            found.append([at, 1])
    return found


def row_events(q: Any) -> list[dict[str, Any]]:
    """Events of one `Sequence` that has ended."""
    tokens, at, committed = (t[: q.shown].cpu() for t in q.result)
    events, changes = [], dict(q.changes)
    for forward, block in enumerate(q.forwards):
        positions, kept = (at == forward).nonzero()[:, 0], q.kept_at.get(forward)
        events.append(
            {
                "row": q.number,
                "forward": forward,
                "block": block,
                "span": [q.spans[forward][0], min(q.spans[forward][1], q.shown)],
                "positions": positions.tolist(),
                "tokens": tokens[positions].tolist(),
                "confidence": committed[positions].tolist(),
                "kept": None if kept is None else kept[kept < q.shown].tolist(),
                "time": q.times[forward],
            }
        )
        if forward in changes and changes[forward].source is not None:
            events[-1]["canvas"] = runs(changes[forward].source[: q.shown])
    return events
