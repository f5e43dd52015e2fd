"""The host's plan: which block each sequence is in, its kept suffix, and the pass that follows.

Nothing here depends on tokens: a plan follows from the seed, the row keys and the lengths.
"""

from dataclasses import dataclass, field

import torch

from dpad import ops

# Scope of the passes after a block's first, per cache mode; the first ("refresh") computes all.
CACHED_SCOPE = {
    "none": ops.SCOPES["all"],
    "prefix": ops.SCOPES["suffix"],
    "dual": ops.SCOPES["block"],
}


def blocks_of(prompt_length, length, block_length):
    """The blocks [start, end) of a sequence, left to right; the last may be shorter."""
    starts = range(prompt_length, length, block_length)
    return [(s, min(s + block_length, length)) for s in starts]


@dataclass
class Sequence:
    """The host's view of one sequence."""

    row: int
    length: int
    row_key: int
    blocks: list
    block: int = 0
    step: int = 0
    kept: torch.Tensor | None = None
    log: list = field(default_factory=list)  # per block: kept positions
    forwards: list = field(default_factory=list)  # per forward: block number

    @property
    def current(self):
        return self.blocks[self.block]

    @property
    def refresh(self):
        return self.step == 0

    def advance(self):
        """To the next block; False when there is none."""
        self.block, self.step, self.kept = self.block + 1, 0, None
        return self.block < len(self.blocks)


@dataclass
class Layout:
    """One pass as tensors on the device; int64. `live` are the sequences in it."""

    live: list
    slot: torch.Tensor
    position: torch.Tensor
    q_offsets: torch.Tensor
    n_keys: torch.Tensor
    logit_row: torch.Tensor
    logit_position: torch.Tensor
    l_offsets: torch.Tensor
    canvas_row: torch.Tensor
    cache_row: torch.Tensor
    length: torch.Tensor
    max_position: int

    @property
    def rows(self):
        return self.slot.shape[0]


class Planner:
    """Draws kept sets and lays out passes; the same pass is reused while nothing changes."""

    def __init__(self, suffix, seed, cache, shift, device, supplied=None):
        self.suffix, self.seed, self.shift, self.device = suffix, seed, shift, device
        self.scope = CACHED_SCOPE[cache]
        self.supplied = supplied
        self._key, self._layout = None, None

    def _draw(self, sequences):
        """Kept sets of the sequences that begin a block."""
        if self.supplied is not None:
            for q in sequences:
                q.kept = self.supplied(q.row, q.block)
                q.log.append(q.kept)
            return
        column = lambda values: torch.tensor(list(values), dtype=torch.int64)  # noqa: E731
        total = column(q.length for q in sequences)
        end = column(q.current[1] for q in sequences)
        kept, count = ops.suffix_sample(
            column(q.row_key for q in sequences),
            column(q.block for q in sequences),
            torch.zeros_like(end),
            end,
            total,
            seed=self.seed,
            length=int((total - end).max()),
            **self.suffix.parameters(),
        )
        for q, row, n in zip(sequences, kept, count.tolist(), strict=True):
            q.kept = row[:n]
            q.log.append(q.kept)

    def layout(self, live):
        """The next pass of the live sequences."""
        key = [(q.row, q.block, q.refresh) for q in live]
        if key == self._key:
            return self._layout
        fresh = [q for q in live if q.kept is None]
        if fresh:
            self._draw(fresh)
        self._key, self._layout = key, self._build(live)
        return self._layout

    def _build(self, live):
        column = lambda values: torch.tensor(list(values), dtype=torch.int64)  # noqa: E731
        kept = torch.nn.utils.rnn.pad_sequence([q.kept for q in live], True, -1)
        scopes = (ops.SCOPES["all"] if q.refresh else self.scope for q in live)
        plan = ops.plan_pass(
            column(q.current[0] for q in live),
            column(q.current[1] for q in live),
            kept,
            column(q.kept.numel() for q in live),
            column(scopes),
            self.shift,
        )
        row = column(q.row for q in live)
        length = column(q.length for q in live)
        tensors = [t.to(self.device, non_blocking=True) for t in (*plan, row, row, length)]
        return Layout(live, *tensors, max_position=int(plan[1].max()))
