"""What a request tells while it is decoded, and of its end."""

from dataclasses import dataclass

import torch

STREAMS = (None, "blocks", "drafts")  # which events there are before the `End`


@dataclass(frozen=True)
class Usage:
    """`prompt_tokens`, `completion_tokens` (those before the first end id) and `forwards`."""

    prompt_tokens: int
    completion_tokens: int
    forwards: int


@dataclass(frozen=True)
class Timings:
    """Seconds since the request was submitted: until it was admitted (`queued`), until its first
    block was finished (`first_block`), until its end (`total`); None for what did not happen.
    """

    queued: float | None
    first_block: float | None
    total: float


@dataclass(frozen=True)
class Block:
    """A finished block: `tokens`, int64 ``[n]`` on the CPU, up to the first end id, which is
    included. It never changes any more.
    """

    tokens: torch.Tensor


@dataclass(frozen=True)
class Draft:
    """What the current block looks like after a step; the next one may differ.

    `tokens` int64 ``[block]``: what is committed, and the model's prediction elsewhere;
    `confidence` float64 ``[block]``: probability of what it predicts; `open` bool ``[block]``:
    where nothing is committed yet. All on the CPU.
    """

    tokens: torch.Tensor
    confidence: torch.Tensor
    open: torch.Tensor


@dataclass(frozen=True)
class End:
    """The last event of every request.

    `reason`: "stop" (an end id), "length", "criteria", "cancelled", "timeout" or "error".
    """

    reason: str
    usage: Usage
    timings: Timings


Event = Block | Draft | End
