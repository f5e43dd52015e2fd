"""What the adaptive rules of `dpad.decode.rules` accept, on the device.

Each is a function of the rows of a pass, whose operations are the same in every step, so that a
step can be captured. Nothing is read back.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch

from dpad.decode import device as devices
from dpad.decode.layout import Targets
from dpad.decode.rules import MOST_NUMBERS

# Columns of the numbers that a pass is told: those of the rule, and these.
LENGTH, PROGRESS = MOST_NUMBERS, MOST_NUMBERS + 1
WIDTH = MOST_NUMBERS + 2
ACCEPTED = 2.0  # what is accepted ranks from here on, above every probability
_EPS = 1e-12  # of the logarithms in KLASS


@dataclass
class Seen:
    """What a rule sees of the rows of a pass.

    `logits` ``[rows, vocab]`` that decide, `probability` float64 ``[rows]`` of each prediction,
    `masked` bool ``[rows]``, `numbers` float64 ``[batch, WIDTH]``, `suppress` the ids that are
    never chosen, `memory` of the lane or None.
    """

    targets: Targets
    logits: torch.Tensor
    probability: torch.Tensor
    masked: torch.Tensor
    numbers: torch.Tensor
    suppress: torch.Tensor
    memory: "Memory | None" = None

    def of(self, column: int) -> torch.Tensor:
        """A number of each row's sequence."""
        return self.targets.spread(self.numbers[:, column])

    @cached_property
    def sequence(self) -> torch.Tensor:
        """Number of the sequence of each row."""
        count = self.targets.length.shape[0]
        return self.targets.spread(torch.arange(count, device=self.masked.device))

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the masked rows of each sequence, float64 ``[batch]``."""
        found = torch.zeros_like(self.numbers[:, 0])
        return found.index_add_(0, self.sequence, torch.where(self.masked, values, 0.0))


class Memory:
    """A number per id of the vocabulary, and a count, for every position of the current blocks.

    `ids` float32 ``[rows + 1, width, vocab]``, `steps` int64 ``[rows + 1, width]``: those of the
    canvas, and one for all its spare rows. A block is at most `width` positions long, so a
    position's remainder is its place.

    Raises:
        MemoryError: it does not fit, with the bytes.
    """

    def __init__(self, rows: int, width: int, vocab: int, device: torch.device) -> None:
        wanted, free = 4 * (rows + 1) * width * vocab, devices.free_bytes(device)
        if free is not None and wanted > free:
            raise MemoryError(
                f"a commit rule that remembers needs {wanted:,} bytes for {rows} rows, blocks of "
                f"{width} and {vocab} ids, and {free:,} are free on {device}: use a shorter "
                "block_length, micro_batch or another rule"
            )
        self._rows = rows
        self.ids = torch.zeros(rows + 1, width, vocab, device=device)
        self.steps = torch.zeros(rows + 1, width, dtype=torch.int64, device=device)

    def places(self, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the numbers of each row stand."""
        row, position = targets.places()
        return row.clamp(max=self._rows), position % self.steps.shape[1]

    def forget(self, rows: torch.Tensor) -> None:
        """Before the first step of a block; `rows` int64 of the canvas."""
        self.ids.index_fill_(0, rows, 0)
        self.steps.index_fill_(0, rows, 0)


def credited(
    logits: torch.Tensor,
    targets: Targets,
    masked: torch.Tensor,
    numbers: torch.Tensor,
    memory: Memory,
) -> torch.Tensor:
    """Logits + alpha log(1 + credit); the credits of this step are added first."""
    at = memory.places(targets)
    _, alpha, gamma, beta = (targets.spread(numbers[:, i])[:, None] for i in range(MOST_NUMBERS))
    best, token = logits.float().softmax(-1).max(-1, keepdim=True)
    gain = torch.where(masked[:, None], best.double() ** gamma, 0.0)
    credit = memory.ids[at] * beta.float()
    credit = credit.scatter_add(-1, token, gain.float())
    memory.ids[at] = credit
    return (logits + alpha.to(logits.dtype) * torch.log1p(credit)).to(logits.dtype)


def ranked(kind: str, seen: Seen) -> torch.Tensor:
    """What the operator ranks, float64 ``[rows]``: at least `ACCEPTED` where the rule accepts."""
    accepted, score = RULES[kind](seen)
    found = torch.where(accepted & seen.masked, ACCEPTED + score.clamp(min=0), score)
    return torch.where(seen.probability.isnan(), seen.probability, found)


def _streaming(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    left = seen.targets.spread(seen.total(torch.ones_like(seen.probability))) / seen.of(LENGTH)
    return seen.probability >= seen.of(0) * (1 - seen.of(1) * (1 - left)), seen.probability


def _klass(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    memory = cast("Memory", seen.memory)
    at = memory.places(seen.targets)
    now, before = seen.logits.float().softmax(-1), memory.ids[at]
    divergence = (now * (torch.log(now + _EPS) - torch.log(before + _EPS))).sum(-1)
    # Before the first step all probabilities are 0, which is far from everything.
    steps = torch.where(divergence < seen.of(1), memory.steps[at] + 1, 0)
    memory.ids[at], memory.steps[at] = now, steps
    return (seen.probability > seen.of(0)) & (steps >= seen.of(2)), seen.probability


def _prophet(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    two = seen.logits.index_fill(-1, seen.suppress, -torch.inf).topk(2, -1).values.double()
    gaps, count = seen.total(two[:, 0] - two[:, 1]), seen.total(torch.ones_like(seen.probability))
    progress = seen.numbers[:, PROGRESS]
    early, middle, late = seen.numbers[:, 0], seen.numbers[:, 1], seen.numbers[:, 2]
    bound = torch.where(progress < 0.33, early, torch.where(progress < 0.67, middle, late))
    return seen.targets.spread(gaps >= bound * count), seen.probability


def _leap(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    # Sequences stand far apart on one line, so that no anchor is near another's rows.
    place = seen.sequence * 2**40 + seen.targets.position
    anchor = seen.masked & (seen.probability >= seen.of(0))
    before = torch.where(anchor, place, -(2**60)).cummax(0).values
    behind = torch.where(anchor, place, 2**60).flip(0).cummin(0).values.flip(0)
    near = torch.minimum(place - before, behind - place) <= seen.of(2)
    return anchor | (near & (seen.probability >= seen.of(1))), seen.probability


def _prefix(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    unsure = seen.masked & ~(seen.probability >= seen.of(0))
    last = torch.where(unsure, seen.sequence, -1).cummax(0).values
    return last != seen.sequence, -seen.targets.position.double() - 1


RULES = {
    "streaming": _streaming,
    "klass": _klass,
    "prophet": _prophet,
    "leap": _leap,
    "prefix": _prefix,
}
