"""The host's plan: which block each sequence is in, its kept suffix, and the pass that follows.

Nothing here depends on tokens: a plan follows from the seed, the row keys and the lengths.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from dpad import ops
from dpad.decode.packed import moved

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
    # Planning is the host's, whatever torch's default device is.
    return torch.tensor(list(values), dtype=torch.int64, device="cpu")


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
    """One pass; int64 tensors, on the host until `to`. `live` are the sequences in it.

    With guidance each sequence has two streams in the pass, the second one with its prompt hidden:
    the pass's tensors hold the batch twice, `target` ``[logit_rows of one stream]`` and `length`
    (of the canvas, ``[batch]``) once. `sizes` holds (rows, K/V start, keys) of every stream of a
    sequence, for those who need to know them on the host.
    """

    live: list
    slot: torch.Tensor
    position: torch.Tensor
    q_offsets: torch.Tensor
    n_keys: torch.Tensor
    logit_row: torch.Tensor
    l_offsets: torch.Tensor
    canvas_row: torch.Tensor
    kv_start: torch.Tensor
    hidden_until: torch.Tensor | None
    target: torch.Tensor
    length: torch.Tensor
    max_position: int
    sizes: tuple | None = None

    @property
    def rows(self):
        return self.slot.shape[0]

    @property
    def streams(self):
        return self.kv_start.shape[0] // self.length.shape[0]

    @cached_property
    def targets(self):
        """The `Targets` of the pass."""
        batch = self.length.shape[0]
        l_offsets = self.l_offsets[: batch + 1]
        return Targets(self.canvas_row[:batch], l_offsets, self.target, self.length)

    def to(self, device):
        """The same pass on another device."""
        if self.slot.device == device:
            return self
        return replace(self, **moved(tensors_of(self), device))


def tensors_of(fields):
    """The tensors of a dataclass, by name."""
    return {n: t for n, t in vars(fields).items() if isinstance(t, torch.Tensor)}


class Planner:
    """Draws kept sets and lays out passes; the same pass is reused while nothing changes."""

    def __init__(
        self,
        suffix,
        seed,
        cache,
        shift,
        supplied=None,
        guided_rows=0,
        published=False,
        capacity=0,
    ):
        self.capacity = capacity  # slots of a cache row
        self.suffix, self.seed, self.shift = suffix, seed, shift
        self.scope = CACHED_SCOPE[cache]
        self.supplied = supplied
        self.guided_rows = guided_rows  # 0, or the number of canvas rows: second streams follow
        self.published = published and shift == 1
        self._made = {}  # all refreshing or not -> (what it follows from, pass)

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
            _column(self.seed for q in sequences),
            _column(q.row_key for q in sequences),
            _column(q.block for q in sequences),
            torch.zeros_like(end),
            end,
            total,
            length=int((total - end).max()),
            **self.suffix.parameters(),
        )
        for q, row, n in zip(sequences, kept, count.tolist(), strict=True):
            q.kept = row[:n]
            q.log.append(q.kept)

    def layout(self, live):
        """The next pass of the live sequences, on the host."""
        key = [(q.row, q.block, q.refresh) for q in live]
        kind = all(q.refresh for q in live)
        fresh = [q for q in live if q.kept is None]
        if fresh:
            self._draw(fresh)
        elif kind in self._made and self._made[kind][0] == key:
            return self._made[kind][1]
        self._made[kind] = key, self._build(live)
        return self._made[kind][1]

    def _build(self, live):
        streams = 2 if self.guided_rows else 1
        every = live * streams
        plan = ops.plan_pass(
            _column(q.current[0] for q in every),
            _column(q.current[1] for q in every),
            torch.nn.utils.rnn.pad_sequence([q.kept for q in every], True, -1),
            _column(q.kept.numel() for q in every),
            _column(ops.SCOPES["all"] if q.refresh else self.scope for q in every),
            _column(0 for _ in every),
            _column(q.current[0] for q in every),
            0 if self.published else self.shift,
        )
        if self.published:
            plan = (*plan[:4], self._published_rows(plan), *plan[5:])
        slot, position, q_offsets, n_keys, logit_row, target, l_offsets, _ = plan
        row = _column(q.row for q in live)
        cache_row = torch.cat([row + stream * self.guided_rows for stream in range(streams)])
        kv_start = cache_row * self.capacity
        hidden = None
        if self.guided_rows:
            hidden = _column([0] * len(live) + [q.blocks[0][0] for q in live])
        return Layout(
            live=live,
            slot=slot,
            position=position,
            q_offsets=q_offsets,
            n_keys=n_keys,
            logit_row=logit_row,
            l_offsets=l_offsets,
            canvas_row=row.repeat(streams),
            kv_start=kv_start,
            hidden_until=hidden,
            target=target[: target.shape[0] // streams],
            length=_column(q.length for q in live),
            max_position=int(position.max()),
            sizes=tuple(map(tuple, torch.stack((q_offsets.diff(), kv_start, n_keys), 1).tolist())),
        )

    @staticmethod
    def _published_rows(plan):
        """The predecessor's row where the pass computes it, else the position's own."""
        q_offsets, logit_row, l_offsets = plan[2], plan[4], plan[6]
        first = torch.repeat_interleave(q_offsets[:-1], l_offsets.diff())
        return torch.maximum(logit_row - 1, first)
