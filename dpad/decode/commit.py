"""Commit rules: which of the predicted tokens of a block are kept in a step."""

from dataclasses import dataclass

import torch

from dpad import ops


@dataclass(frozen=True)
class Rule:
    """A commit rule.

    `number` is the operator's rule, `score` what it ranks, `amount` its threshold, factor or
    bound, `steps` the number of steps of the whole canvas for a fixed quota (None: one token per
    step), `schedule` how it is spread. Sources: threshold and factor, Fast-dLLM (arXiv
    2505.22618); quota, LLaDA (arXiv 2502.09992) and Dream (arXiv 2508.15487); entropy bound, arXiv
    2505.24857.
    """

    number: int
    score: str = "probability"
    amount: float = 0.0
    steps: int | None = None
    schedule: str = "linear"


def threshold(value, score="probability"):
    """Every position with score >= value, and always the best."""
    return Rule(ops.RULES["threshold"], score, float(value))


def factor(value, published=False):
    """The largest m with (j + 1)(1 - p_j) <= value for j = 2..m in descending order."""
    name = "factor_published" if published else "factor"
    return Rule(ops.RULES[name], "probability", float(value))


def entropy_bound(value):
    """Ascending entropy, while the sum of all but the largest stays within the bound."""
    return Rule(ops.RULES["entropy_bound"], "entropy", float(value))


def fixed_quota(steps=None, score="probability", schedule="linear"):
    """`steps` steps over the whole canvas; None: one token per step.

    `schedule` "linear" is LLaDA's, "dream" the one that Dream's block decoders take.
    """
    return Rule(ops.RULES["quota"], score, 0.0, steps, schedule)


def dream_schedule(masks, steps, eps=1e-3):
    """Quotas of the steps 1..steps-1 of a Dream block: floor(m (1 - t'/t)), all at the last.

    Times t fall linearly from 1 to `eps` in float32, as published; step 0 is not taken there.
    """
    times = torch.linspace(1, eps, steps + 1)
    quotas = []
    for i in range(1, steps):
        quota = int(masks * (1 - times[i + 1] / times[i])) if i < steps - 1 else masks
        quotas.append(quota)
        masks -= quota
    return quotas


class Quotas:
    """Number of positions that a fixed-quota rule commits in each step of each block.

    `first_alone`: the first step of a block commits its first position only (Dream's published
    caches).
    """

    def __init__(self, rule, block_lengths, first_alone=False):
        self.schedules = None
        if rule.number != ops.RULES["quota"] or rule.steps is None:
            return
        steps = ops.transfer_schedule(rule.steps, len(block_lengths)).tolist()
        self.schedules = [
            self._of_block(rule.schedule, masks, n, first_alone)
            for masks, n in zip(block_lengths, steps, strict=True)
        ]

    @staticmethod
    def _of_block(schedule, masks, steps, first_alone):
        if schedule == "linear":
            # Steps without a quota are not taken: they would change nothing.
            return [max(n, 1) for n in ops.transfer_schedule(masks, steps).tolist()]
        return [1] * first_alone + dream_schedule(masks - first_alone, steps)

    def of(self, live, device):
        """int64 ``[batch]`` for the step that the live sequences are about to take."""
        if self.schedules is None:
            return torch.ones(len(live), dtype=torch.int64, device=device)
        quota = []
        for q in live:
            schedule = self.schedules[q.block]
            quota.append(schedule[q.step] if q.step < len(schedule) else 1)
        return torch.tensor(quota, dtype=torch.int64, device=device)
