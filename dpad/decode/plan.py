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


def _column(values):
    return torch.tensor(list(values), dtype=torch.int64)


@dataclass
class Sequence:
    """The host's view of one sequence."""

    row: int
    length: int
    row_key: int
    blocks: list
    block: int = 0
    step: int = 0
    masks: int | None = None  # of the block, where the schedule of a fixed quota counts them
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
        self.block, self.step, self.masks, self.kept = self.block + 1, 0, None, None
        return self.block < len(self.blocks)


@dataclass
class Targets:
    """The positions that a pass predicts, and whose they are; int64.

    canvas_row and length (of the canvas) are ``[batch]``, l_offsets ``[batch + 1]``, position
    ``[logit_rows]``.
    """

    canvas_row: torch.Tensor
    l_offsets: torch.Tensor
    position: torch.Tensor
    length: torch.Tensor


@dataclass
class Layout:
    """One pass as tensors on the device; int64. `live` are the sequences in it.

    With guidance each sequence has two streams in the pass, the second one with its prompt hidden:
    the pass's tensors hold the batch twice, the targets once.
    """

    live: list
    slot: torch.Tensor
    position: torch.Tensor
    q_offsets: torch.Tensor
    n_keys: torch.Tensor
    logit_row: torch.Tensor
    l_offsets: torch.Tensor
    canvas_row: torch.Tensor
    cache_row: torch.Tensor
    hidden_until: torch.Tensor | None
    targets: Targets
    max_position: int

    @property
    def rows(self):
        return self.slot.shape[0]


class Planner:
    """Draws kept sets and lays out passes; the same pass is reused while nothing changes."""

    def __init__(
        self, suffix, seed, cache, shift, device, supplied=None, guided_rows=0, published=False
    ):
        self.suffix, self.seed, self.shift, self.device = suffix, seed, shift, device
        self.scope = CACHED_SCOPE[cache]
        self.supplied = supplied
        self.guided_rows = guided_rows  # 0, or the number of canvas rows: second streams follow
        self.published = published and shift == 1
        self._key, self._layout = None, None

    def _draw(self, sequences):
        """Kept sets of the sequences that begin a block."""
        if self.supplied is not None:
            for q in sequences:
                q.kept = self.supplied(q.row, q.block)
                q.log.append(q.kept)
            return
        total = _column(q.length for q in sequences)
        end = _column(q.current[1] for q in sequences)
        kept, count = ops.suffix_sample(
            _column(q.row_key for q in sequences),
            _column(q.block for q in sequences),
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
        streams = live * 2 if self.guided_rows else live
        plan = ops.plan_pass(
            _column(q.current[0] for q in streams),
            _column(q.current[1] for q in streams),
            torch.nn.utils.rnn.pad_sequence([q.kept for q in streams], True, -1),
            _column(q.kept.numel() for q in streams),
            _column(ops.SCOPES["all"] if q.refresh else self.scope for q in streams),
            0 if self.published else self.shift,
        )
        if self.published:
            plan = (*plan[:4], self._published_rows(plan), *plan[5:])
        last = int(plan[1].max())
        row, length = _column(q.row for q in live), _column(q.length for q in live)
        tensors = [t.to(self.device, non_blocking=True) for t in (*plan, row, length)]
        slot, position, q_offsets, n_keys, logit_row, target, l_offsets, row, length = tensors
        if not self.guided_rows:
            targets = Targets(row, l_offsets, target, length)
            pass_rows = (slot, position, q_offsets, n_keys, logit_row, l_offsets, row, row)
            return Layout(live, *pass_rows, None, targets, last)
        batch, predicted = len(live), target.shape[0] // 2
        targets = Targets(row, l_offsets[: batch + 1], target[:predicted], length)
        prompt = _column([0] * batch + [q.blocks[0][0] for q in live]).to(self.device)
        twice, caches = torch.cat((row, row)), torch.cat((row, row + self.guided_rows))
        pass_rows = (slot, position, q_offsets, n_keys, logit_row, l_offsets, twice, caches)
        return Layout(live, *pass_rows, prompt, targets, last)

    @staticmethod
    def _published_rows(plan):
        """The predecessor's row where the pass computes it, else the position's own."""
        q_offsets, logit_row, l_offsets = plan[2], plan[4], plan[6]
        first = torch.repeat_interleave(q_offsets[:-1], l_offsets.diff())
        return torch.maximum(logit_row - 1, first)
