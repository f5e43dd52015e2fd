"""The canvas: the only copy of the tokens, and everything the device decides."""

import torch

from dpad import ops


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

    def gather(self, layout, hidden_until=None):
        """Tokens of a pass's rows, int64 ``[rows of the pass]``."""
        return ops.suffix_gather(
            self.tokens,
            layout.canvas_row,
            layout.q_offsets,
            layout.position,
            hidden_until,
            self.mask_id,
        )

    def commit(self, layout, scores, rule, amount, quota, stop):
        """Commits by rule; `scores` is the result of `ops.confidence`, `stop` a `Stop`."""
        token, probability, margin, entropy = scores
        ranked = {"probability": probability, "margin": margin, "entropy": entropy}[rule.score]
        ops.unmask_(
            self.tokens,
            self.committed_at,
            self.committed,
            self.masks_left,
            self.status,
            self.forward,
            layout.canvas_row,
            layout.l_offsets,
            layout.logit_position,
            token,
            ranked,
            probability,
            amount,
            quota,
            layout.length,
            stop.end_ids,
            rule.number,
            stop.early,
            self.mask_id,
            stop.fill_id,
        )

    def read_status(self):
        """The status of every row as a list: the one host read of a step."""
        return self.status.tolist()
