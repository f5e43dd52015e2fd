"""Commit rules: which of the predicted tokens of a block are kept in a step."""

from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch

from dpad import ops
from dpad.decode import adaptive, ancestral
from dpad.decode.rules import AdaptiveRule, Credit

NO_LIMIT = 2**62  # a quota that never binds


@dataclass(frozen=True)
class Rule:
    """A commit rule.

    `number` is the operator's rule, `score` what it ranks ("uniform": random draws), `value` its
    threshold, factor or bound, `steps` the number of steps of the whole canvas (None: as many as it
    takes), `schedule` how they are spread: "linear", "floor" (the remainder is dropped), "one" (a
    mask in each), "share", "dream", "dream-block", "origin" or "carried". The score "position" goes
    from left to right, "run" is that of `sure_or_run`, "within" that of `surest_within`, "no_mask"
    of `threshold_of_tokens`.
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
    def spread(self) -> bool:
        """Whether fixed steps are spread over a block, none behind them."""
        return self.steps is not None and self.score != "ancestral"

    @property
    def remembers(self) -> bool:
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


def valued(
    option: str, value: float | torch.Tensor, steps: int | None = None, published: bool = False
) -> Rule:
    """The rule of an option that holds a threshold, factor or bound, see `threshold` and others."""
    kind = KINDS[option]
    number = ops.RULES[(published and kind.published) or kind.rule]
    score = cast("str", kind.score)  # its options hold a value
    return Rule(number, score, float(value), steps, "carried")


def threshold(value: float | torch.Tensor, steps: int | None = None) -> Rule:
    """Every position with score >= value, and always the best.

    With `steps` at most masks / steps of them per step, and as many more as earlier steps held
    back (Fast-dLLM's threshold on Dream's whole canvas).
    """
    return valued("confidence_threshold", value, steps)


def at_least(
    value: float | torch.Tensor, steps: int | None = None, schedule: str = "linear"
) -> Rule:
    """Every position with score >= value, and the best of a step's quota (SDAR's dynamic rule,
    arXiv 2510.06303); None: of one.
    """
    return Rule(ops.RULES["at_least"], "probability", float(value), steps, schedule)


def sure_or_run(value: float | torch.Tensor, steps: int | None = None) -> Rule:
    """Every position with score >= value if these are a step's quota, else those of the quota's
    positions from the first mask on that are masks (JetEngine).
    """
    return Rule(ops.RULES["threshold"], "run", float(value), steps)


def factor(value: float | torch.Tensor, published: bool = False) -> Rule:
    """The largest m with (j + 1)(1 - p_j) <= value for j = 2..m in descending order."""
    return valued("factor", value, published=published)


def entropy_bound(value: float | torch.Tensor) -> Rule:
    """Ascending entropy, while the sum of all but the largest stays within the bound."""
    return valued("entropy_bound", value)


def entropy_sum(value: float | torch.Tensor, steps: int | None = None) -> Rule:
    """Ascending entropy, while the sum of all stays below the bound; at least one (JetEngine)."""
    return Rule(ops.RULES["entropy_sum"], "entropy", float(value), steps)


def surest_within(value: float | torch.Tensor, steps: int | None = None) -> Rule:
    """By descending probability, those whose entropies and those of all surer ones sum up to no
    more than the bound, the greatest of them left out; all in the last step (RND1).
    """
    return Rule(ops.RULES["threshold"], "within", float(value), steps)


def threshold_of_tokens(value: float | torch.Tensor) -> Rule:
    """The threshold where the mask may be predicted: such a position comes after all others, with
    its best other token (DAEDAL's program).
    """
    return Rule(ops.RULES["threshold"], "no_mask", float(value))


def fixed_quota(
    steps: int | None = None,
    score: str = "probability",
    schedule: str = "linear",
    eps: float = 1e-3,
    order_temperature: float = 0.0,
) -> Rule:
    """`steps` steps over the whole canvas; None: one token per step.

    `schedule` "linear" is LLaDA's, "share" RND1's, "dream" that of Dream's sampler, "dream-block"
    what its block decoders make of it.
    """
    return Rule(ops.RULES["quota"], score, 0.0, steps, schedule, eps, order_temperature)


def adaptive_rule(rule: AdaptiveRule, steps: int | None = None) -> Rule:
    """The positions that an adaptive rule accepts, and the best of a step's quota (of one)."""
    found = Rule(ops.RULES["at_least"], rule.kind, adaptive.ACCEPTED, steps, adaptive=rule)
    if isinstance(rule, Credit):  # an ordinary threshold, of other logits
        return replace(found, number=ops.RULES["threshold"], value=rule.threshold)
    return found


def independent(steps: int | None, eps: float = 1e-3) -> Rule:
    """Dream's "origin": in step i each position commits with probability 1 - t_{i+1} / t_i."""
    return Rule(ops.RULES["below"], "uniform", 0.0, steps, "origin", eps)


def ancestral_steps(
    steps: int | None = None,
    eps: float = ancestral.EPS,
    remask: ancestral.Remask | None = None,
    last: bool = False,
) -> Rule:
    """Ancestral sampling in `steps` steps (None: as many as masks), and one for what is left.

    `last`: that one is among the steps, as in BD3-LM's program, which divides by 0 there.
    """
    schedule = "ancestral-last" if last else "ancestral"
    return Rule(ops.RULES["below"], "ancestral", 0.5, steps, schedule, eps, remask=remask)
