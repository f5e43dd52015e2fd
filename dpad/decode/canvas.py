"""The canvas: the only copy of the tokens, and everything the device decides."""

import torch

from dpad import ops
from dpad.decode.commit import fixed_quota


class Canvas:
    """Tokens and state of `rows` sequences of up to `length` positions, and of `spare` rows.

    `tokens`, `committed_at` (number of the forward that committed, -1: never) and `committed`
    (probability then) are ``[rows + spare, length]``; `masks_left`, `status` and `forward`
    ``[rows + spare]``. Sequences lie dense from column 0, without padding; `lengths` holds each
    one's length. What happens to spare rows means nothing.
    """

    def __init__(self, rows, length, device, spare=0):
        self.rows, self.spare = rows, spare
        new = torch.zeros(rows + spare, length, dtype=torch.int64, device=device).new_zeros
        self.tokens, self.committed_at = new(rows + spare, length), new(rows + spare, length)
        self.committed = new(rows + spare, length, dtype=torch.float64)
        self.masks_left, self.status, self.forward = (new(rows + spare) for _ in range(3))
        pinned = self.tokens.device.type == "cuda"
        self._read = torch.empty(rows + spare, dtype=torch.int64, device="cpu", pin_memory=pinned)

    @classmethod
    def of(cls, prompts, new_tokens, mask_id, device):
        """A canvas for one run, see `load`."""
        lengths = [len(p) + new_tokens for p in prompts]
        return cls(len(prompts), max(lengths), device).load(prompts, new_tokens, mask_id)

    def load(self, prompts, new_tokens, mask_id):
        """Begins anew: every prompt (int64, one per sequence) and `new_tokens` masks behind it."""
        self.prompt_lengths = [len(p) for p in prompts]
        self.lengths = [n + new_tokens for n in self.prompt_lengths]
        self.mask_id = mask_id
        tokens = torch.full(self.tokens.shape, mask_id, dtype=torch.int64, device="cpu")
        tokens[self.rows :] = int(mask_id == 0)  # no mask: padding may name a position repeatedly
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        self.tokens.copy_(tokens)
        self.committed_at.fill_(-1)
        for state in (self.committed, self.masks_left, self.status, self.forward):
            state.zero_()
        return self

    def copied(self):
        """The sequences alone, in memory of their own."""
        rows, length = len(self.lengths), max(self.lengths)
        other = Canvas(rows, length, self.tokens.device)
        for name in ("tokens", "committed_at", "committed"):
            getattr(other, name).copy_(getattr(self, name)[:rows, :length])
        for name in ("masks_left", "status", "forward"):
            getattr(other, name).copy_(getattr(self, name)[:rows])
        other.prompt_lengths, other.lengths = self.prompt_lengths, self.lengths
        other.mask_id = self.mask_id
        return other

    def gather(self, layout):
        """Tokens of a pass's rows, int64 ``[rows of the pass]``."""
        return ops.suffix_gather(
            self.tokens,
            layout.canvas_row,
            layout.q_offsets,
            layout.position,
            layout.hidden_until,
            self.mask_id,
        )

    def eligible(self, targets):
        """Bool ``[logit_rows]``: the canvas still holds a mask there."""
        return self.tokens[self.places(targets)] == self.mask_id

    @staticmethod
    def places(targets):
        """Row and position of every target."""
        sizes, count = targets.l_offsets.diff(), targets.position.shape[0]
        rows = torch.repeat_interleave(targets.canvas_row, sizes, output_size=count)
        return rows, targets.position

    def commit(self, targets, token, ranked, probability, rule, amount, quota, stop):
        """Commits by rule: int64 `token`, float64 `ranked` and `probability`, ``[logit_rows]``."""
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
            amount,
            quota,
            targets.length,
            stop.end_ids,
            rule.number,
            stop.early,
            self.mask_id,
            stop.fill_id,
        )

    def settle(self, targets, stop):
        """Takes up what somebody else wrote to the positions of `targets`, see `loop.Step.settle`.

        A commit with a quota of 0 decides what a commit decides, and commits nothing.
        """
        at, count = self.places(targets), targets.position.shape[0]
        masked = self.tokens[at] == self.mask_id
        filled = ~masked & (self.committed_at[at] < 0)
        now = self.forward[at[0]] - 1
        self.committed_at[at] = torch.where(filled, now, self.committed_at[at]).where(~masked, -1)
        self.committed[at] = torch.where(filled, 1.0, self.committed[at]).where(~masked, 0.0)
        # The first commit may have filled the tail behind an end that is gone now.
        end = targets.position[targets.l_offsets[1:] - 1, None]
        column = torch.arange(self.tokens.shape[1], device=end.device)
        tail = (column > end) & (column < targets.length[:, None])
        row = targets.canvas_row
        self.tokens[row] = self.tokens[row].masked_fill(tail, self.mask_id)
        failed = self.status == ops.STATUS["nan"]
        score = self.committed.new_zeros(count)
        amount, quota = score.new_zeros(row.shape[0]), torch.zeros_like(row)
        token = torch.full_like(targets.position, stop.fill_id)
        self.commit(targets, token, score, score, fixed_quota(), amount, quota, stop)
        self.forward[row] -= 1
        self.status.masked_fill_(failed, ops.STATUS["nan"])

    def read_status(self):
        """The status of every row as a list: the one host read of a step."""
        self._read.copy_(self.status, non_blocking=True)
        if self.status.device.type == "cuda":
            torch.cuda.current_stream(self.status.device).synchronize()
        return self._read.tolist()
