"""What a decoding run returns on request, and the trace as JSON lines."""

import json
from dataclasses import dataclass, field

import torch
from transformers.utils import ModelOutput

TRACE_FORMAT = "dpad-trace"
TRACE_VERSION = 1


@dataclass
class DPadOutput(ModelOutput):
    """Result of `dpad.generate(..., return_dict_in_generate=True)`.

    Args:
        sequences: int64 ``[batch, prompt columns + new tokens]``: the input columns unchanged, then
            the answer; behind a row's first end id everything is padding.
        seed: the seed in force.
        forwards: int64 ``[batch]``, model calls of each row, refreshes included.
        tokens_per_forward: float64 ``[batch]``, tokens committed by the model per forward.
        kept_suffix: per row and block, the kept suffix positions (int64, counted from the row's
            first token that is not padding).
        finish_reason: per row, "stop" (an end id in a finished block), "criteria" (a stopping
            criterion) or "length".
        timings: seconds: total, plan, forward, commit (host time; on a GPU the work that a phase
            has queued may run in a later one), and positions, the rows computed in all passes.
        trace: `Trace` if asked for.
        history: int64 ``[batch, columns]`` after each step, if asked for.
    """

    sequences: torch.LongTensor | None = None
    seed: int | None = None
    forwards: torch.LongTensor | None = None
    tokens_per_forward: torch.DoubleTensor | None = None
    kept_suffix: list | None = None
    finish_reason: list | None = None
    timings: dict | None = None
    trace: "Trace | None" = None
    history: tuple | None = None


@dataclass
class Trace:
    """One event per forward of each row, in order; `save` writes versioned JSON lines.

    An event holds: row, forward (of that row), block, positions and tokens that were committed,
    their confidence, kept (suffix positions, on the block's first forward, else null), time
    (seconds since the start). Positions count from the row's first token that is not padding.
    """

    header: dict
    events: list = field(default_factory=list)

    def save(self, path):
        """Writes the header and one event per line."""
        with open(path, "w", encoding="utf-8") as file:
            for record in (self.header, *self.events):
                file.write(json.dumps(record) + "\n")

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote; ValueError for another format or version."""
        with open(path, encoding="utf-8") as file:
            header, *events = [json.loads(line) for line in file]
        found = (header.get("format"), header.get("version"))
        if found != (TRACE_FORMAT, TRACE_VERSION):
            raise ValueError(f"{path}: format and version {found} are not a dpad trace's")
        return cls(header, events)


def row_events(run, sequence, row, seconds):
    """Events of one sequence of a `Run`; `row` is its number in the whole batch."""
    at = run.canvas.committed_at[sequence.row].cpu()
    tokens, committed = run.canvas.tokens[sequence.row].cpu(), run.canvas.committed[sequence.row]
    committed = committed.cpu()
    events, previous = [], None
    for forward, block in enumerate(sequence.forwards):
        positions = (at == forward).nonzero()[:, 0]
        events.append(
            {
                "row": row,
                "forward": forward,
                "block": block,
                "positions": positions.tolist(),
                "tokens": tokens[positions].tolist(),
                "confidence": committed[positions].tolist(),
                "kept": sequence.log[block].tolist() if block != previous else None,
                "time": seconds[forward],
            }
        )
        previous = block
    return events
