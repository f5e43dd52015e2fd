"""The canvas: the only copy of the tokens, and everything the device decides."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch

from dpad import ops
from dpad.decode import device as devices
from dpad.decode.adaptive import Memory
from dpad.decode.lane import Lane
from dpad.decode.layout import Layout, Targets
from dpad.decode.packed import int64s, moved
from dpad.decode.sequence import Result

if TYPE_CHECKING:
    from dpad.decode.replan import Change
    from dpad.decode.sequence import Sequence


class Canvas:
    """Tokens and state of up to `rows` sequences of up to `length` positions, and `spare` rows.

    `tokens`, `committed_at` (number of the forward that committed, -1: never) and `committed`
    (probability then) are ``[rows + spare, length]``; `masks_left`, `status`, `head_masked`
    (whether the first target of the last pass is a mask) and `forward` ``[rows + spare]``. A
    sequence lies dense from column 0 of its row, without padding. What happens to spare rows, and
    behind a sequence's length, means nothing.
    """

    def __init__(self, rows: int, length: int, device: torch.device, spare: int = 0) -> None:
        self.rows, self.length, self.spare = rows, length, spare
        new = torch.empty(0, dtype=torch.int64, device=device).new_zeros
        self.tokens, self.committed_at = new(rows + spare, length), new(rows + spare, length)
        self.committed = new(rows + spare, length, dtype=torch.float64)
        self._state = new(4, rows + spare)
        self.masks_left, self.forward, self.status, self.head_masked = self._state.unbind()
        self._read = self._state[2:]  # what the host reads in each step
        pin = devices.pinned(self.tokens.device)
        self._status = torch.empty_like(self._read, device="cpu", pin_memory=pin)
        self.free_rows = list(range(rows - 1, -1, -1))
        parts = self.tokens, self.committed_at, self.committed, self._state.T
        self._rows = list(zip(*(part.unbind() for part in parts), strict=True))
        # What a row begins with: copies only, as each kind of work costs time of its own at first.
        self._blank = new(length).fill_(-1), new(length, dtype=torch.float64), new(4)
        self._spare_token = 0
        self._mask_ids: set[int] = set()
        self._memories: dict[tuple[int, int], Memory] = {}  # they stay where they are, for graphs

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def keep_spare_rows_free_of(self, mask_id: int) -> None:
        """Spare rows hold no mask of anybody: there is nothing to commit, wherever padding points.

        Before the first pass of sequences with this mask id.
        """
        self._mask_ids.add(mask_id)
        if self._spare_token in self._mask_ids:
            ids = range(len(self._mask_ids) + 1)
            self._spare_token = next(i for i in ids if i not in self._mask_ids)
            self.tokens[self.rows :].fill_(self._spare_token)

    def memory(self, width: int, vocab: int) -> Memory:
        """The `Memory` of blocks of up to `width` positions, before the first pass of its lane."""
        key = width, vocab
        if key not in self._memories:
            self._memories[key] = Memory(self.rows, *key, self.device)
        return self._memories[key]

    def begin_blocks(self, sequences: list["Sequence"]) -> None:
        """Before the first pass of a block: what was remembered of the last one is forgotten."""
        for memory in self._memories.values() if sequences else ():
            rows = int64s(q.row for q in sequences)
            memory.forget(moved({"rows": rows}, self.device)["rows"])

    def load(self, sequences: list["Sequence"]) -> None:
        """Begins sequences in their rows; other rows are not touched.

        What was decided in a row before is cleared to its end; tokens behind the sequence stay.
        """
        sent = {str(q.row): q.tokens for q in sequences}
        if self.device.type != "cpu":
            sent = moved(sent, self.device)
        for q in sequences:
            tokens, *others = self._rows[q.row]
            tokens[: q.length].copy_(sent[str(q.row)])
            for part, blank in zip(others, self._blank, strict=True):
                part.copy_(blank)

    def take(self, q: "Sequence") -> Result:
        """The `Result` of a sequence, in memory of its own."""
        row, state = (q.row, slice(0, q.length)), (self.tokens, self.committed_at, self.committed)
        with torch.inference_mode(False):  # they are the caller's
            return Result(*(t[row].clone() for t in state))

    def gather(self, layout: Layout, mask_id: int, hides_given: bool = False) -> torch.Tensor:
        """Tokens of a pass's rows, int64 ``[rows of the pass]``.

        `hides_given`: with guidance, all text that was given is hidden from the second stream, not
        the prompt alone: it is told by never having been committed.
        """
        tokens = ops.suffix_gather(
            self.tokens,
            layout.canvas_row,
            layout.q_offsets,
            layout.position,
            layout.hidden_until,
            mask_id,
        )
        if hides_given:
            sizes, rows = layout.q_offsets.diff(), layout.rows
            row = torch.repeat_interleave(layout.canvas_row, sizes, output_size=rows)
            second = slice(rows // 2, None)
            given = self.committed_at[row[second], layout.position[second]] < 0
            tokens[second].masked_fill_(given, mask_id)
        return tokens

    def eligible(self, targets: Targets, mask_id: int) -> torch.Tensor:
        """Bool ``[logit_rows]``: the canvas still holds a mask there."""
        return self.tokens[targets.places()] == mask_id

    def commit(
        self,
        targets: Targets,
        token: torch.Tensor,
        ranked: torch.Tensor,
        probability: torch.Tensor,
        rule_value: torch.Tensor,
        quota: torch.Tensor,
        lane: Lane,
        end_ids: torch.Tensor,
    ) -> None:
        """Commits by the lane's rule.

        int64 `token`, float64 `ranked` and `probability` ``[logit_rows]``; float64 `rule_value` and
        int64 `quota` ``[batch]``.
        """
        ops.unmask_(
            self.tokens,
            self.committed_at,
            self.committed,
            self.masks_left,
            self.status,
            self.forward,
            targets.canvas_row,
            targets.l_offsets,
            targets.position,
            token,
            ranked,
            probability,
            rule_value,
            quota,
            targets.length,
            end_ids,
            lane.rule,
            lane.early_stop,
            lane.mask_id,
            lane.fill_id,
        )

    def mask_again(self, targets: Targets, again: torch.Tensor, mask_id: int) -> None:
        """Masks the rows of `again` (bool) after a commit, as if they had never been committed."""
        at, row = targets.places(), targets.canvas_row
        for state, empty in ((self.tokens, mask_id), (self.committed_at, -1), (self.committed, 0)):
            state[at] = torch.where(again, empty, state[at]).to(state.dtype)
        sequence = targets.spread(torch.arange(row.shape[0], device=row.device))
        count = torch.zeros_like(row).index_add_(0, sequence, again.long())
        self.masks_left[row] += count
        running = (count > 0) & (self.status[row] <= ops.STATUS["finished"])
        self.status[row] = torch.where(running, ops.STATUS["running"], self.status[row])

    def look_at_heads(self, targets: Targets, mask_id: int) -> None:
        """Finds out whether the first target of each sequence is still a mask."""
        count = targets.position.shape[0]
        if count:
            row, at = targets.canvas_row, targets.l_offsets[:-1].clamp(max=count - 1)
            self.head_masked[row] = (self.tokens[row, targets.position[at]] == mask_id).long()

    def settle(self, targets: Targets, lane: Lane, end_ids: torch.Tensor) -> None:
        """Takes up what somebody else wrote to the positions of `targets`, see `Step.settle`.

        A commit with a quota of 0 decides what a commit decides, and commits nothing.
        """
        at, count = targets.places(), targets.position.shape[0]
        masked = self.tokens[at] == lane.mask_id
        filled = ~masked & (self.committed_at[at] < 0)
        now = self.forward[at[0]] - 1
        self.committed_at[at] = torch.where(filled, now, self.committed_at[at]).where(~masked, -1)
        self.committed[at] = torch.where(filled, 1.0, self.committed[at]).where(~masked, 0.0)
        # The first commit may have filled the tail behind an end that is gone now.
        end = targets.position[targets.l_offsets[1:] - 1, None]
        column = torch.arange(self.tokens.shape[1], device=end.device)
        tail = (column > end) & (column < targets.length[:, None])
        row = targets.canvas_row
        self.tokens[row] = self.tokens[row].masked_fill(tail, lane.mask_id)
        failed = self.status == ops.STATUS["nan"]
        score = self.committed.new_zeros(count)
        value, quota = score.new_zeros(row.shape[0]), torch.zeros_like(row)
        token = torch.full_like(targets.position, lane.fill_id)
        waits = lane._replace(rule=ops.RULES["quota"])
        self.commit(targets, token, score, score, value, quota, waits, end_ids)
        self.forward[row] -= 1
        self.status.masked_fill_(failed, ops.STATUS["nan"])

    def rewrite(self, q: "Sequence", change: "Change") -> None:
        """Gives the row of a sequence the tokens of a `Change` that it has taken up.

        New positions were never committed. Other rows are not touched.
        """
        source = cast("torch.Tensor", change.source)
        fill = torch.full_like(source, q.mask_id) if change.tokens is None else change.tokens
        sent = {"source": source, "fill": fill}
        sent = sent if self.device.type == "cpu" else moved(sent, self.device)
        source, length = sent["source"], source.shape[0]
        stays, at = source >= 0, source.clamp(min=0)
        new: tuple[Any, ...] = (sent["fill"], -1, 0.0)
        for state, value in zip((self.tokens, self.committed_at, self.committed), new, strict=True):
            state[q.row, :length] = torch.where(stays, state[q.row, at], value)
        start, end = q.current
        self.masks_left[q.row] = (self.tokens[q.row, start:end] == q.mask_id).sum()

    def fetch(self, numbers: Iterable[torch.Tensor]) -> torch.Tensor:
        """Queues a copy of tensors ``[k]`` to the host, float64 and joined; it is there after the
        next `read_status`.
        """
        joined = torch.cat([n.flatten().double() for n in numbers])
        pin = devices.pinned(self.device)
        host = torch.empty(joined.shape, dtype=joined.dtype, device="cpu", pin_memory=pin)
        return host.copy_(joined, non_blocking=True)

    def read_status(self) -> list[list[int]]:
        """Status and `head_masked` of every row as lists: the one host read of a step."""
        self._status.copy_(self._read, non_blocking=True)
        devices.wait(self.device)
        return self._status.tolist()
