"""The canvas: the only copy of the tokens, and everything the device decides."""

import torch

from dpad import ops
from dpad.decode.commit import fixed_quota


class Canvas:
    """Tokens and state of `rows` sequences.

    `tokens`, `committed_at` (number of the forward that committed, -1: never) and `committed`
    (probability then) are ``[rows, length]``; `masks_left`, `status` and `forward` ``[rows]``.
    Sequences lie dense from column 0, without padding; `lengths` holds each one's length.
    """

    def __init__(self, prompts, new_tokens, mask_id, device):
        self.prompt_lengths = [len(p) for p in prompts]
        self.lengths = [n + new_tokens for n in self.prompt_lengths]
        self.mask_id = mask_id
        rows, length = len(prompts), max(self.lengths)
        tokens = torch.full((rows, length), mask_id, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        self.tokens = tokens.to(device)
        new = self.tokens.new_zeros
        self.committed_at = new(rows, length) - 1
        self.committed = new(rows, length, dtype=torch.float64)
        self.masks_left, self.status, self.forward = new(rows), new(rows), new(rows)

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
        rows = torch.repeat_interleave(targets.canvas_row, targets.l_offsets.diff())
        return self.tokens[rows, targets.position] == self.mask_id

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
        count = targets.position.shape[0]
        sizes = targets.l_offsets.diff()
        at = (
            torch.repeat_interleave(targets.canvas_row, sizes, output_size=count),
            targets.position,
        )
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
        return self.status.tolist()
