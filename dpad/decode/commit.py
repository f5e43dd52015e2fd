"""Commit rules: which of the predicted tokens of a block are kept in a step."""

from dataclasses import dataclass

import torch

from dpad import ops


@dataclass(frozen=True)
class Rule:
    """A commit rule.

    `number` is the operator's rule, `score` what it ranks, `amount` its threshold, factor or
    bound, `steps` the number of steps of the whole canvas for a fixed quota (None: one token per
    step). Sources: threshold and factor, Fast-dLLM (arXiv 2505.22618); quota, LLaDA (arXiv
    2502.09992); entropy bound, arXiv 2505.24857.
    """

    number: int
    score: str = "probability"
    amount: float = 0.0
    steps: int | None = None


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


def fixed_quota(steps=None):
    """`steps` steps over the whole canvas by LLaDA's linear schedule; None: one token per step."""
    return Rule(ops.RULES["quota"], "probability", 0.0, steps)


class Quotas:
    """Number of positions that a fixed-quota rule commits in each step of each block."""

    def __init__(self, rule, block_lengths):
        self.schedules = None
        if rule.number == ops.RULES["quota"] and rule.steps is not None:
            steps = ops.transfer_schedule(rule.steps, len(block_lengths)).tolist()
            pairs = zip(block_lengths, steps, strict=True)
            self.schedules = [ops.transfer_schedule(m, n).tolist() for m, n in pairs]

    def of(self, live, device):
        """int64 ``[batch]`` for the step that the live sequences are about to take."""
        if self.schedules is None:
            return torch.ones(len(live), dtype=torch.int64, device=device)
        quota = []
        for q in live:
            schedule = self.schedules[q.block]
            quota.append(schedule[q.step] if q.step < len(schedule) else 1)
        return torch.tensor(quota, dtype=torch.int64, device=device)
