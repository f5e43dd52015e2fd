"""The published decoding in plain torch, on the modules of the same model: HF-style, eager.

As Fast-dLLM and DPad run it (arXiv 2505.22618, 2508.14148): the tests' reference, whose K is cached
before RoPE and rotated as a whole at every step, whose rows are written by an index that `nonzero`
finds in each layer, and whose commits are decided by the host. Of a pass over all rows only the
block's reach the head, which is less than the published code does.
"""

import torch

from benchmarks.gpu.models import BLOCK, MASK_ID
from tests.doubles.plain_llada import Published
from tests.doubles.reference_decoder import reference


def decide(logits, open_, rule, quota, mask_id):
    """`choose` of the reference on the host's word: by threshold 0.9, or `quota` positions."""
    p = torch.softmax(logits.double(), -1)
    logits[..., mask_id] = -torch.inf
    token, taken = logits.argmax(-1), torch.zeros_like(open_)
    score = p.gather(-1, token[..., None])[..., 0].masked_fill(~open_, -torch.inf)
    for b in range(len(score)):
        count = quota or max(int((score[b] >= 0.9).sum()), 1)
        taken[b, score[b].topk(count).indices] = True
    return token, taken


class PlainStep:
    """The same sequences as a `benchmarks.gpu.passes.Step`, with a cache of its own."""

    def __init__(self, step, model):
        self.step, self.plain, self.past = step, Published(model), None
        keys = step.start.shape[1]
        self.position, self.at = torch.arange(keys, device=step.start.device), keys - BLOCK

    def logits(self, whole=False):
        """``[batch, block, vocab]``; `whole`: all rows are computed."""
        start, past = (0, None) if whole else (self.at, self.past)
        ids, position = self.step.canvas[:, start:], self.position[start:]
        hidden, self.past = self.plain(ids, position, past, start)
        return self.plain.head(hidden[:, -BLOCK:])

    def __call__(self, whole=False):
        """One step; True while a mask is left."""
        self.step.canvas.copy_(self.step.start)
        block = self.step.canvas[:, self.at :]
        token, taken = decide(self.logits(whole), block == MASK_ID, None, None, MASK_ID)
        block.copy_(torch.where(taken, token, block))
        return bool((block == MASK_ID).any())

    def refresh(self):
        """All slots, the block's head rows and commits."""
        return self(whole=True)


def decode(model, ids, new_tokens, per_step, forward=Published, choose=decide):
    """Decodes `new_tokens` behind ids ``[batch, length]``, `per_step` of each block in a step, the
    suffix whole and in a dual cache; int64 ``[batch, length + new_tokens]``.
    """
    how = {"cache": "dual", "head": "block", "forward": forward, "choose": choose}
    rule = ("quota", new_tokens // per_step)
    return reference(model, ids, new_tokens, mask_id=MASK_ID, rule=rule, **how).tokens
