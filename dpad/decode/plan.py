"""The host's plan: the kept suffix of each block, and the pass that follows.

Nothing here depends on tokens: a plan follows from the seed, the row keys and the lengths.
"""

from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch

from dpad import ops
from dpad.decode import phases
from dpad.decode.attention import Sizes
from dpad.decode.layout import Layout
from dpad.decode.packed import columns

if TYPE_CHECKING:
    from dpad.decode.sequence import Sequence

_LAYOUTS = 8  # kept, of the passes that were laid out last


def draw_suffix(sequences: list["Sequence"]) -> None:
    """Draws the kept sets of sequences that begin a block, all of one kind of suffix.

    Text behind a block is no scratchpad: it stays, and so does what a `Replan` looks at.
    """
    rows: list[tuple[int, ...]]
    rows = [(q.seed, q.row_key, q.block, q.redraws, q.current[1], q.length) for q in sequences]
    longest = max(q.length - q.current[1] for q in sequences)
    how = sequences[0].suffix.parameters()
    kept, count = ops.suffix_sample(*columns(rows), length=longest, **how)
    for q, row, n in zip(sequences, kept.unbind(), count.tolist(), strict=True):
        q.kept = row[:n] if q.text is None else _with_text(q, row[:n])


def _with_text(q: "Sequence", drawn: torch.Tensor) -> torch.Tensor:
    """The drawn positions and those that are not to be dropped, ascending."""
    stays = cast("torch.Tensor", q.text).clone()
    if q.replan is not None and (pinned := q.replan.pinned(q)) is not None:
        stays[pinned] = True
    stays[: q.current[1]] = False
    stays[drawn] = True
    return stays.nonzero()[:, 0]


class Planner:
    """Lays out passes; the same pass is used again while nothing changes. `shift` is the model's.

    A layout is found again by the ids of its sequences, never by the rows they have.
    """

    def __init__(self, shift: int) -> None:
        self.shift = shift
        self._layouts: OrderedDict[tuple[Any, ...], Layout] = OrderedDict()

    def layout(self, live: list["Sequence"]) -> Layout:
        """The next pass of sequences that share a lane and have their kept sets, on the host."""
        for q in live:
            q.planned = q.place
        key = tuple(q.plan_key for q in live)
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = self._build(live)
            if len(self._layouts) > _LAYOUTS:
                self._layouts.popitem(last=False)
        else:
            self._layouts.move_to_end(key)
        return layout

    def _build(self, live: list["Sequence"]) -> Layout:
        first, streams = live[0], live[0].streams
        behind = [phases.behind(q, q.planned) for q in live]
        rows: list[tuple[int, ...]] = []
        starts: list[int] = []
        for stream in range(streams):
            for q, kept in zip(live, behind, strict=True):
                skipped = phases.unseen(q)
                starts.append(q.start + stream * q.capacity + skipped)
                given = kept.shape[0], skipped, q.predecessor
                held = q.row, starts[-1], q.length, stream * q.prompt_length
                rows.append((*q.planned, *given, *held))
        start, end, scope, begin, first_target, *more = columns(rows)
        kept_count, unseen, predecessor, canvas_row, kv_start, length, hidden = more
        # Passes that only denoise see one block to its end: its keys are the limit of all rows.
        block_length = first.lane.causal_block
        if block_length and not any(q.refresh or q.cache == "none" for q in live):
            block_length = 0
        by_row, by_target, offsets, n_keys = ops.plan_pass(
            start,
            end,
            torch.cat(behind * streams),
            kept_count,
            scope,
            begin,
            first_target,
            unseen,
            predecessor,
            self.shift,
            block_length,
        )
        slot, position, *key_limit = by_row.unbind()
        logit_row, target = by_target.unbind()
        q_offsets, l_offsets = offsets.unbind()
        layout = Layout(
            slot=slot,
            position=position,
            q_offsets=q_offsets,
            n_keys=n_keys,
            logit_row=logit_row,
            l_offsets=l_offsets,
            canvas_row=canvas_row,
            kv_start=kv_start,
            hidden_until=hidden if streams == 2 else None,
            target=target[: target.shape[0] // streams] if streams == 2 else target,
            length=length[: len(live)] if streams == 2 else length,
            max_position=max(q.length for q in live) - 1,
            block_length=max(q.sub_block_length or q.widest for q in live),
            sizes=_sizes(q_offsets.tolist(), starts, n_keys.tolist()),
            key_limit=key_limit[0] if key_limit else None,
        )
        if any(q.scans for q in live):
            scan = _scanned(live, self.shift, position, q_offsets, logit_row, target, l_offsets)
            layout = replace(layout, **scan)
        return layout


def _sizes(offsets: list[int], starts: list[int], keys: list[int]) -> Sizes:
    """(rows, K/V start, keys) of every stream of a sequence."""
    rows = [end - begin for begin, end in pairwise(offsets)]
    return tuple(zip(rows, starts, keys, strict=True))


def _scanned(
    live: list["Sequence"],
    shift: int,
    position: torch.Tensor,
    q_offsets: torch.Tensor,
    logit_row: torch.Tensor,
    target: torch.Tensor,
    l_offsets: torch.Tensor,
) -> dict[str, Any]:
    """The rows that reach the head where replans look at the whole answer, see `Layout`.

    Of a sequence that scans, those whose position is visible, of its answer, and predicted by a row
    of the pass; of the others their targets.
    """
    rows, positions, own = [], [], []
    sizes: list[int] = []
    for stream_b in range(q_offsets.shape[0] - 1):
        q, begin = live[stream_b % len(live)], sum(sizes[: stream_b % len(live)])
        logit = slice(*l_offsets[stream_b : stream_b + 2].tolist())
        if not q.scans:
            row, at = logit_row[logit], target[logit]
        else:
            first, last = q_offsets[stream_b : stream_b + 2].tolist()
            seen = position[first:last]
            at = seen + shift * q.predecessor
            answer = (at >= q.prompt_length) & torch.isin(at, seen)
            at, order = at[answer].sort()
            row = (first + answer.nonzero()[:, 0])[order]
        rows.append(row)
        sizes.append(row.shape[0])
        if stream_b < len(live):
            positions.append(at)
            own.append(begin + torch.searchsorted(at, target[logit]))
    offsets = torch.tensor([0, *sizes], device="cpu").cumsum(0)
    return {
        "scan_row": torch.cat(rows),
        "scan_offsets": offsets,
        "scan_position": torch.cat(positions),
        "scan_target": torch.cat(own),
        "scan_sizes": tuple(sizes[: len(live)]),
    }
