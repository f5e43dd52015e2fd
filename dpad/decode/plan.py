"""The host's plan: the kept suffix of each block, and the pass that follows.

Nothing here depends on tokens: a plan follows from the seed, the row keys and the lengths.
"""

from collections import OrderedDict

import torch

from dpad import ops
from dpad.decode import phases
from dpad.decode.layout import Layout

_LAYOUTS = 8  # kept, of the passes that were laid out last


def _columns(rows):
    """int64 ``[n]`` tensors, one per column of a list of rows."""
    flat = [value for column in zip(*rows, strict=True) for value in column]
    # Planning is the host's, whatever torch's default device is.
    return torch.tensor(flat, dtype=torch.int64, device="cpu").view(-1, len(rows)).unbind()


def draw_suffix(sequences):
    """Draws the kept sets of sequences that begin a block, all of one kind of suffix.

    Text behind a block is no scratchpad: it stays, and so does what a `Replan` looks at.
    """
    rows = [(q.seed, q.row_key, q.block, q.redraws, q.current[1], q.length) for q in sequences]
    longest = max(q.length - q.current[1] for q in sequences)
    how = sequences[0].suffix.parameters()
    kept, count = ops.suffix_sample(*_columns(rows), length=longest, **how)
    for q, row, n in zip(sequences, kept, count.tolist(), strict=True):
        q.kept = row[:n] if q.text is None else _with_text(q, row[:n])


def _with_text(q, drawn):
    """The drawn positions and those that are not to be dropped, ascending."""
    stays = q.text.clone()
    if q.replan is not None and (pinned := q.replan.pinned(q)) is not None:
        stays[pinned] = True
    stays[: q.current[1]] = False
    stays[drawn] = True
    return stays.nonzero()[:, 0]


class Planner:
    """Lays out passes; the same pass is used again while nothing changes. `shift` is the model's.

    A layout is found again by the ids of its sequences, never by the rows they have.
    """

    def __init__(self, shift):
        self.shift = shift
        self._layouts = OrderedDict()

    def layout(self, live):
        """The next pass of sequences that share a lane and have their kept sets, on the host."""
        key = tuple(q.plan_key for q in live)
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = self._build(live)
            if len(self._layouts) > _LAYOUTS:
                self._layouts.popitem(last=False)
        else:
            self._layouts.move_to_end(key)
        return layout

    def _build(self, live):
        streams = live[0].streams
        causal = live[0].causal
        inside = self.shift == 1 and (causal or live[0].published_shift)
        places = [q.place for q in live]
        behind = [phases.behind(q, place) for q, place in zip(live, places, strict=True)]
        start, end, scope, first, first_target, kept_count, row, kv_start, length = _columns(
            [
                (*place, kept.numel(), q.row, q.start + stream * q.capacity, q.length)
                for stream in range(streams)
                for q, place, kept in zip(live, places, behind, strict=True)
            ]
        )
        kept = torch.nn.utils.rnn.pad_sequence(behind * streams, True, -1)
        # Passes that only denoise see one block to its end: its keys are the limit of all rows.
        block_length = live[0].lane.causal_block if any(q.refresh for q in live) else 0
        if causal and live[0].cache == "none":
            block_length = live[0].lane.causal_block
        shift = 0 if inside else self.shift
        plan = ops.plan_pass(
            start, end, kept, kept_count, scope, first, first_target, shift, block_length
        )
        slot, position, q_offsets, n_keys, logit_row, target, l_offsets, key_limit = plan
        if any(map(phases.unseen, live)):
            unseen = torch.tensor([phases.unseen(q) for q in live] * streams, device="cpu")
            kv_start, n_keys = kv_start + unseen, n_keys - unseen
            slot, key_limit = _moved(slot, key_limit, unseen, q_offsets)
        if inside:
            logit_row = _published_rows(q_offsets, logit_row, l_offsets)
        hidden = None
        if streams == 2:
            zeros = [0] * len(live)
            hidden = torch.tensor([*zeros, *(q.prompt_length for q in live)], device="cpu")
        sizes = torch.stack((q_offsets.diff(), kv_start, n_keys), 1).tolist()
        scan = {}
        if any(q.scans for q in live):
            scan = _scanned(live, shift, position, q_offsets, logit_row, target, l_offsets)
        return Layout(
            slot=slot,
            position=position,
            q_offsets=q_offsets,
            n_keys=n_keys,
            logit_row=logit_row,
            l_offsets=l_offsets,
            canvas_row=row,
            kv_start=kv_start,
            hidden_until=hidden,
            target=target[: target.shape[0] // streams],
            length=length[: len(live)],
            max_position=int(position.max()),
            block_length=max(q.sub_block_length or q.widest for q in live),
            sizes=tuple(map(tuple, sizes)),
            key_limit=key_limit if block_length else None,
            **scan,
        )


def _moved(slot, key_limit, unseen, q_offsets):
    """Slots and limits where the range of a sequence begins behind `unseen` of its slots."""
    rows = torch.repeat_interleave(unseen, q_offsets.diff())
    limit = key_limit - rows if key_limit.numel() else key_limit
    return torch.where(slot < 0, slot, slot - rows), limit


def _scanned(live, shift, position, q_offsets, logit_row, target, l_offsets):
    """The rows that reach the head where replans look at the whole answer, see `Layout`.

    Of a sequence that scans, those whose position is visible, of its answer, and predicted by a row
    of the pass; of the others their targets.
    """
    rows, positions, own, sizes = [], [], [], []
    for stream_b in range(q_offsets.shape[0] - 1):
        q, begin = live[stream_b % len(live)], sum(sizes[: stream_b % len(live)])
        logit = slice(*l_offsets[stream_b : stream_b + 2].tolist())
        if not q.scans:
            row, at = logit_row[logit], target[logit]
        else:
            first, last = q_offsets[stream_b : stream_b + 2].tolist()
            at, seen = position[first:last] + shift, position[first:last]
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


def _published_rows(q_offsets, logit_row, l_offsets):
    """The predecessor's row where the pass computes it, else the position's own."""
    first = torch.repeat_interleave(q_offsets[:-1], l_offsets.diff())
    return torch.maximum(logit_row - 1, first)
