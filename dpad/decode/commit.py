"""Commit rules: which of the predicted tokens of a block are kept in a step."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch

from dpad import ops
from dpad.decode import adaptive, ancestral
from dpad.decode.rules import MOST_NUMBERS, AdaptiveRule

NO_LIMIT = 2**62  # a quota that never binds


@dataclass(frozen=True)
class Rule:
    """A commit rule.

    `number` is the operator's rule, `score` what it ranks ("uniform": random draws), `value` its
    threshold, factor or bound, `steps` the number of steps of the whole canvas (None: as many as it
    takes), `schedule` how they are spread: "linear", "floor" (the remainder is dropped), "share",
    "dream", "dream-block", "origin" or "carried". The score "position" goes from left to right,
    "run" is that of `sure_or_run`, "within" that of `surest_within`, "no_mask" of
    `threshold_of_tokens`.
    `eps` ends Dream's times, and `order_temperature` draws the ranking from softmax(score / it).
    `adaptive`: a rule of `dpad.decode.rules`, whose name is the score. `remask`: an
    `ancestral.Remask`, where the score "ancestral" masks tokens again.
    Sources: threshold and factor, Fast-dLLM (arXiv 2505.22618); quota, LLaDA (arXiv 2502.09992) and
    Dream (arXiv 2508.15487); entropy bound, arXiv 2505.24857.
    """

    number: int
    score: str = "probability"
    value: float = 0.0
    steps: int | None = None
    schedule: str = "linear"
    eps: float = 1e-3
    order_temperature: float = 0.0
    adaptive: AdaptiveRule | None = None
    remask: ancestral.Remask | None = None

    @property
    def spread(self):
        """Whether fixed steps are spread over a block, none behind them."""
        return self.steps is not None and self.score != "ancestral"

    @property
    def remembers(self):
        """Whether it keeps what it saw from step to step of a block."""
        return self.adaptive is not None and self.adaptive.remembers


class Kind(NamedTuple):
    """A commit rule as it is asked for: the `option` that holds its value, the operator's `rule`,
    what it ranks, the least value, and the rule of decoders that were `published` with a quirk.
    """

    option: str
    rule: str
    score: str | None  # None: whatever `alg` says
    least: int
    published: str | None = None


# Every rule, by its option; configuration, checks and operators read this table.
KINDS = {
    kind.option: kind
    for kind in (
        Kind("steps", "quota", None, 1),
        Kind("confidence_threshold", "threshold", "probability", 0),
        Kind("factor", "factor", "probability", 0, "factor_published"),
        Kind("entropy_bound", "entropy_bound", "entropy", 0),
        Kind("commit", "at_least", None, 0),  # a rule of `dpad.decode.rules`
    )
}


def valued(option, value, steps=None, published=False):
    """The rule of an option that holds a threshold, factor or bound, see `threshold` and others."""
    kind = KINDS[option]
    number = ops.RULES[(published and kind.published) or kind.rule]
    return Rule(number, kind.score, float(value), steps, "carried")


def threshold(value, steps=None):
    """Every position with score >= value, and always the best.

    With `steps` at most masks / steps of them per step, and as many more as earlier steps held
    back (Fast-dLLM's threshold on Dream's whole canvas).
    """
    return valued("confidence_threshold", value, steps)


def at_least(value, steps=None, schedule="linear"):
    """Every position with score >= value, and the best of a step's quota (SDAR's dynamic rule,
    arXiv 2510.06303); None: of one.
    """
    return Rule(ops.RULES["at_least"], "probability", float(value), steps, schedule)


def sure_or_run(value, steps=None):
    """Every position with score >= value if these are a step's quota, else those of the quota's
    positions from the first mask on that are masks (JetEngine).
    """
    return Rule(ops.RULES["threshold"], "run", float(value), steps)


def factor(value, published=False):
    """The largest m with (j + 1)(1 - p_j) <= value for j = 2..m in descending order."""
    return valued("factor", value, published=published)


def entropy_bound(value):
    """Ascending entropy, while the sum of all but the largest stays within the bound."""
    return valued("entropy_bound", value)


def entropy_sum(value, steps=None):
    """Ascending entropy, while the sum of all stays below the bound; at least one (JetEngine)."""
    return Rule(ops.RULES["entropy_sum"], "entropy", float(value), steps)


def surest_within(value, steps=None):
    """By descending probability, those whose entropies and those of all surer ones sum up to no
    more than the bound, the greatest of them left out; all in the last step (RND1).
    """
    return Rule(ops.RULES["threshold"], "within", float(value), steps)


def threshold_of_tokens(value):
    """The threshold where the mask may be predicted: such a position comes after all others, with
    its best other token (DAEDAL's program).
    """
    return Rule(ops.RULES["threshold"], "no_mask", float(value))


def fixed_quota(
    steps=None, score="probability", schedule="linear", eps=1e-3, order_temperature=0.0
):
    """`steps` steps over the whole canvas; None: one token per step.

    `schedule` "linear" is LLaDA's, "share" RND1's, "dream" that of Dream's sampler, "dream-block"
    what its block decoders make of it.
    """
    return Rule(ops.RULES["quota"], score, 0.0, steps, schedule, eps, order_temperature)


def adaptive_rule(rule, steps=None):
    """The positions that an adaptive rule accepts, and the best of a step's quota (of one)."""
    found = Rule(ops.RULES["at_least"], rule.kind, adaptive.ACCEPTED, steps, adaptive=rule)
    if rule.kind == "credit":  # an ordinary threshold, of other logits
        return replace(found, number=ops.RULES["threshold"], value=rule.threshold)
    return found


def independent(steps, eps=1e-3):
    """Dream's "origin": in step i each position commits with probability 1 - t_{i+1} / t_i."""
    return Rule(ops.RULES["below"], "uniform", 0.0, steps, "origin", eps)


def ancestral_steps(steps=None, eps=ancestral.EPS, remask=None):
    """Ancestral sampling in `steps` steps (None: as many as masks), and one for what is left."""
    number = ops.RULES["below"]
    return Rule(number, "ancestral", 0.5, steps, "ancestral", eps, remask=remask)


@lru_cache(maxsize=64)
def _times(eps, steps):
    """Times fall linearly from 1 to eps in float32, as published."""
    return torch.linspace(1, eps, steps + 1, device="cpu")


@lru_cache(maxsize=64)
def _steps(steps, blocks):
    return ops.transfer_schedule(steps, blocks).tolist()


class Schedule:
    """The most positions that the rule of one sequence commits in each step of each block.

    `first_alone`: the first step of a block commits its first position only (Dream's published
    caches). `blocks`: over how many of the blocks the steps are spread, further ones take as many
    as the last of these; None: all.
    """

    def __init__(self, rule, block_lengths, first_alone=False, blocks=None):
        self.rule, self.lengths, self.first_alone = rule, block_lengths, first_alone
        self.is_quota = rule.number == ops.RULES["quota"]
        self.counted = self.is_quota or rule.number == ops.RULES["at_least"] or rule.score == "run"
        self.carried = rule.steps is not None and rule.schedule == "carried"
        self.steps = None
        if rule.steps is not None:
            steps, count = _steps(rule.steps, blocks or len(block_lengths)), len(block_lengths)
            self.steps = [*steps[:count], *steps[-1:] * (count - len(steps))]
        self._quota = NO_LIMIT
        # Steps that a block takes at most, if each fills a mask.
        self._most = [
            min(n, m) for n, m in zip(self.lengths, self.steps or self.lengths, strict=True)
        ]

    def of(self, q):
        """(rule value, quota, masks to leave) of the step that `q` takes next.

        Where the masks to leave are >= 0, the quota is what only the device knows: the masks left
        but that many.
        """
        if q.phase == "next":  # its one token is always given
            return (
                float("inf") if self.rule.number == ops.RULES["below"] else self.rule.value,
                1,
                -1,
            )
        value, self._quota = self._step(q)
        if self.carried:
            return value, *self._carried(q)
        return value, self._quota, -1

    def numbers(self, q):
        """What the device is told of an adaptive rule in the step that `q` takes next, or None."""
        if self.rule.score == "ancestral":
            return self._ancestral(q)
        if self.rule.adaptive is None:
            return None
        own = self.rule.adaptive.numbers()
        before, each = sum(self._most[: q.block]), self._most[q.block]
        progress = (before + min(q.step, each)) / max(sum(self._most), 1)
        return *own, *(MOST_NUMBERS - len(own)) * (0.0,), float(self.lengths[q.block]), progress

    def _ancestral(self, q):
        if q.phase == "next":  # its one token is drawn now
            return ancestral.numbers(None, 1.0, 1.0)
        eps, n = self.rule.eps, self.steps_of(q.block)
        time = float(_times(eps, n)[q.step]) if q.step < n else None
        return ancestral.numbers(self.rule.remask, time, (1 - eps) / n)

    def steps_of(self, block):
        """Its fixed steps, or as many as masks."""
        return self.lengths[block] if self.steps is None else self.steps[block]

    def _step(self, q):
        rule = self.rule
        if self.steps is None:
            return rule.value, 1 if self.counted else NO_LIMIT
        if rule.schedule == "ancestral":
            return rule.value, NO_LIMIT
        if rule.schedule == "origin":
            return self._share(q.block, q.step), NO_LIMIT
        if rule.score == "within" and q.step >= self.steps[q.block] - 1:
            return float("inf"), NO_LIMIT
        if not self.counted:
            return rule.value, NO_LIMIT
        if rule.schedule == "share":
            return rule.value, self._left(q.block, q.step) - self._left(q.block, q.step + 1)
        if rule.schedule == "floor":
            return rule.value, max(1, self.lengths[q.block] // self.steps[q.block])
        return rule.value, self._linear(q) if rule.schedule == "linear" else self._dream(q)

    def taken(self, q):
        """Counts the masks that a fixed quota fills in the step that `of` was asked about last."""
        if self.is_quota and q.phase in ("refresh", "denoise"):
            q.masks -= min(self._quota, q.masks)

    def most_steps(self, block):
        """Steps after which the block must be done, if each fills a mask or waits as it may."""
        return self.lengths[block] + (0 if self.steps is None else self.steps[block])

    def _linear(self, q):
        """LLaDA's quota; steps without one are not taken: they would change nothing."""
        n, masks = self.steps[q.block], self.lengths[q.block]
        if q.step >= min(n, masks):
            return 1
        return masks // n + (q.step < masks % n)

    def _left(self, block, step):
        """Masks that RND1's steps before `step` leave: their share of the steps that are left, in
        float32 and rounded down, as published.
        """
        n = self.steps[block]
        share = torch.tensor(max(n - step, 0) / n, dtype=torch.float32, device="cpu")
        return int(share * self.lengths[block])

    def _share(self, block, step):
        """1 - t_{step+1} / t_step, beyond every draw from the last step on."""
        times = _times(self.rule.eps, self.steps[block])
        if step >= self.steps[block] - 1:
            return float("inf")
        return float(1 - times[step + 1] / times[step])

    def _dream(self, q):
        """floor(m (1 - t_{i+1} / t_i)), m the masks, or their mean over the rows of the cohort that
        are in the same step; all at the last step. The block decoders do not take step 0.
        """
        step = q.step
        if self.rule.schedule == "dream-block":
            if self.first_alone and step == 0:
                return 1
            step += not self.first_alone
        if step >= self.steps[q.block] - 1:
            return max(q.masks, 1)
        together = [
            r.masks
            for r in q.cohort or (q,)
            if not r.ended and (r.block, r.step) == (q.block, q.step) and r.masks
        ]
        mean = torch.tensor(sum(together), device="cpu") / max(len(together), 1)
        times = _times(self.rule.eps, self.steps[q.block])
        return int(mean * (1 - times[step + 1] / times[step]))

    def _carried(self, q):
        """(quota, masks to leave): what the steps so far may leave is the block's masks less its
        share of each of them. Before a block's first step the host knows its masks.
        """
        whole = self.lengths[q.block]
        leave = max(whole - whole // self.steps[q.block] * (q.step + 1), 0)
        return (whole - leave, -1) if q.step == 0 else (0, leave)
