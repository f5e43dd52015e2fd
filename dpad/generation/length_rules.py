"""When BD3-LM's published sampler ends a text, and what it keeps of it (arXiv 2503.09573)."""

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOW, LEAST_ENTROPY = 256, 4.0  # last tokens that are looked at, nats


class RejectedSampleError(RuntimeError):
    """The published sampler would throw this sample away."""


class LengthRules:
    """Looks at the whole text, the prompt included, after each block, once it has more than 256
    tokens.

    The text ends with its second end-of-text token (the first stands in the prompt), or without its
    last 256 tokens if the entropy of their counts is below 4 nats, which is asked last and holds.
    """

    def __init__(self, number: int, prompt: Tensor, end_ids: Sequence[int], varies: bool) -> None:
        """`number` of the row; `varies`: a text may end early, else one of low entropy raises
        `RejectedSampleError`.
        """
        self.number, self.varies = number, varies
        self.text, self.end_ids = prompt.cpu(), torch.tensor(end_ids, device="cpu")

    def block(self, tokens: Tensor) -> int | None:
        """How many of the block's tokens stay, or None if nothing ends the text; less than 0 where
        tokens before the block go too.
        """
        before = self.text.shape[0]
        self.text = torch.cat((self.text, tokens.cpu()))
        length = self.text.shape[0]
        if length <= WINDOW:
            return None
        entropy = self._entropy()
        low = entropy < LEAST_ENTROPY
        if low and not self.varies:
            raise RejectedSampleError(
                f"row {self.number}: the last {WINDOW} of {length} tokens have an entropy of "
                f"{entropy:.2f} nats, less than {LEAST_ENTROPY}: compatible = 'bd3lm' rejects such "
                "a sample (try another seed), or with early_stop=True cuts them off"
            )
        if not self.varies:
            return None
        if low:
            return length - WINDOW - before
        ends = torch.isin(self.text, self.end_ids).nonzero()[:, 0]
        return int(ends[1]) + 1 - before if ends.shape[0] > 1 else None

    def _entropy(self) -> float:
        counts = torch.unique(self.text[-WINDOW:], return_counts=True)[1].float()
        return float(torch.special.entr(counts / counts.sum()).sum())
