"""Replans: what becomes of a sequence at the end of a step, beside a move to its next block.

A `Replan` belongs to one sequence. After each commit it may queue work on what the device has just
decided (`look`); the few numbers that this gives are read together with the status, and of them the
host makes a `Change`: the canvas grows, positions hold masks again, other blocks follow. Sequences
without one pay nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

MASK = -1  # a source: a mask that is new


class Change(NamedTuple):
    """What a sequence goes on with.

    `source` int64 ``[new length]`` on the host: the position that each one's token comes from, or
    `MASK`; None: the tokens stay. `tokens` int64 ``[new length]``: what new positions hold instead
    of masks. `blocks`: other windows (start, end), ascending, needed where the length changes;
    `block`: which of them comes next, the one at hand by default. `refresh`: everything is computed
    again, with a suffix drawn anew and the schedule of the block from its first step; implied by
    other blocks or lengths. `reason`: the sequence ends with it.
    """

    source: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    blocks: list[tuple[int, int]] | None = None
    block: int | None = None
    refresh: bool = False
    reason: str | None = None


@dataclass
class Seen:
    """What a `Replan` looks at after a commit of its sequence `q`; nothing was read.

    `position` int64, `token` (int64) and `probability` (float64) ``[n]`` and `logits` ``[n,
    vocab]`` are of the targets, committed or not; `masked` bool ``[n]``: still masks. `scanned`:
    where the replan scans, the logits of every position of the answer that the pass has computed,
    ``[m, vocab]``, and these positions ``[m]``, ascending; else None. `canvas`: the `Canvas`.
    """

    q: Any
    position: torch.Tensor
    token: torch.Tensor
    probability: torch.Tensor
    logits: torch.Tensor
    scanned: tuple[torch.Tensor, torch.Tensor] | None
    canvas: Any

    @property
    def masked(self) -> torch.Tensor:
        return self.canvas.tokens[self.q.row, self.position] == self.q.mask_id


class Replan:
    """Changes nothing; a base for those that do. It may keep state: each sequence has its own.

    `scans`: it wants the logits of the whole answer from passes that compute more than the block.
    `ended`: the text has its end, whatever the last block holds. `finished`: it ends with the block
    that is done. `measures`: the next pass commits
    nothing, it is only looked at. `most_steps`: forwards after which the sequence must have ended;
    None: eight for each position.
    """

    scans = False
    ended = False
    finished = False
    measures = False
    most_steps: int | None = None

    def look(self, seen: Seen) -> torch.Tensor | None:
        """Queued after the commit: numbers for `change`, a tensor ``[k]`` on the device."""
        return None

    def change(self, q: Any, numbers: list[float] | None, done: bool) -> Change | None:
        """On the host, after the read; `done`: the block is complete. None: nothing changes."""
        return None

    def pinned(self, q: Any) -> torch.Tensor | slice | None:
        """Positions that stay visible behind every block, whatever the suffix drops."""
        return None

    def final(self, q: Any) -> bool:
        """Whether the block that was completed stays as it is, so that it can be handed out."""
        return True


def masked_again(length: int, positions: Any) -> torch.Tensor:
    """The source of a canvas whose `positions` hold masks again."""
    source = torch.arange(length, device="cpu")
    source[torch.as_tensor(positions, dtype=torch.int64, device="cpu")] = MASK
    return source


def with_masks(length: int, at: int, count: int, instead: int = 0, most: int | None = None) -> Any:
    """The source of a canvas with `count` masks before position `at`, in place of the `instead`
    positions from there on; cut to `most` positions.
    """
    source = torch.arange(length, device="cpu")
    new = torch.full((count,), MASK, device="cpu")
    return torch.cat((source[:at], new, source[at + instead :]))[:most]


def windows(text: torch.Tensor, begin: int, block_length: int) -> list[tuple[int, int]]:
    """Blocks over all masks from `begin` on, left to right: the first one begins there, each other
    one at the first mask behind the one before, none ends with text. Each spans at most
    `block_length` positions.

    text: bool ``[length]``, True where the canvas holds none of the masks to fill.
    """
    blocks: list[tuple[int, int]] = []
    for position in (~text).nonzero()[:, 0].tolist():
        if position < begin:
            continue
        if not blocks or position >= blocks[-1][0] + block_length:
            blocks.append((position if blocks else begin, position + 1))
        else:
            blocks[-1] = (blocks[-1][0], position + 1)
    return blocks


def apply(q: Any, change: Change) -> None:
    """Takes up a `Change` of a sequence on the host: length, blocks, schedule, what is drawn anew.

    Raises:
        ValueError: a length beyond its capacity, or another length without blocks.
    """
    length = q.length if change.source is None else change.source.shape[0]
    moved = length != q.length
    if moved and (length > q.capacity or change.blocks is None):
        raise ValueError(
            f"row {q.number} of {q.length} positions: a change to {length} with blocks "
            f"{change.blocks} and a capacity of {q.capacity}"
        )
    q.changes.append((len(q.forwards) - 1, change))
    again = 0 if change.source is None else _rewritten(q, change)
    if change.blocks is not None:
        q.blocks = change.blocks
        q.plan_schedule()
    if change.refresh or moved or change.blocks is not None or change.block is not None:
        q.block = q.block if change.block is None else change.block
        q.redraws += 1
        q.enter()
        # Where the last row of the block before predicts the first token, it is computed again.
        q.saved = min(q.saved, q.window[0] - int(q.open_from > q.current[0]))
    else:
        q.masks += again


def _rewritten(q: Any, change: Change) -> int:
    """The host's picture of the tokens after a change; how many masks of the block are new."""
    source = change.source
    assert source is not None
    new = source == MASK
    text = q.text[source.clamp(min=0)] & ~new
    if change.tokens is not None:
        text |= new & (change.tokens != q.mask_id)
    if q.shown == q.length:
        q.shown = source.shape[0]
    q.text, q.length = text, source.shape[0]
    return int((new & ~text)[slice(*q.current)].sum())


def seen_by(
    live: list[Any],
    targets: Any,
    decision: Any,
    scanned: Callable[[int], Any],
    canvas: Any,
) -> list[Seen]:
    """A `Seen` for each sequence of a pass that has a replan; `scanned(number)` is of one."""
    seen, row = [], 0
    for number, q in enumerate(live):
        rows = slice(row, row + q.width)
        row = rows.stop
        if q.replan is not None:
            decided = (decision.token[rows], decision.probability[rows], decision.logits[rows])
            seen.append(Seen(q, targets.position[rows], *decided, scanned(number), canvas))
    return seen
