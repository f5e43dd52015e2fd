"""What a commit rule ranks: one of the model's scores, draws, or what a caller supplies."""

from typing import TYPE_CHECKING, cast

import torch

from dpad import ops
from dpad.decode import adaptive
from dpad.decode.commit import NO_LIMIT
from dpad.decode.controls import Controls
from dpad.decode.layout import Targets

if TYPE_CHECKING:
    from dpad.decode.sequence import Sequence
    from dpad.decode.step import DeviceStep


def ranked(
    step: "DeviceStep",
    targets: Targets,
    controls: Controls,
    scores: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    live: list["Sequence"] | None,
    logits: torch.Tensor,
) -> torch.Tensor:
    """What the commit rule ranks: one of the model's scores, or draws."""
    lane, hooks = step.lane, step.lane.hooks
    if hooks is not None and hooks.order is not None and targets.position.shape[0]:
        return hooks.order(live, targets.position, step.eligible(targets))
    if lane.random_order or lane.score == "uniform":
        return ops.uniform(controls.rng, targets.l_offsets, targets.position)
    probability, margin, entropy = scores
    if lane.score == "position":
        return torch.where(probability.isnan(), probability, -targets.position.double())
    if lane.score == "run":
        return _sure_or_run(probability, step.eligible(targets), targets, controls)
    if lane.score == "within":
        return _surest_within(probability, entropy, step.eligible(targets), targets, controls)
    if lane.score in adaptive.RULES:
        masked = step.eligible(targets)
        told = cast("torch.Tensor", controls.numbers)
        seen = (targets, logits, probability, masked, told, step.suppress, step.memory)
        ranked = adaptive.ranked(lane.score, adaptive.Seen(*seen))
    else:
        ranked = {
            "probability": probability,
            "credit": probability,
            "margin": margin,
            "entropy": entropy,
            "negative_entropy": -entropy,
        }[lane.score]
    if lane.drawn_order:
        # The n best of score / t + Gumbel noise are n draws without replacement from
        # softmax(score / t) (arXiv 1903.06059).
        drawn = ops.uniform(controls.rng, targets.l_offsets, targets.position)
        temperature = targets.spread(cast("torch.Tensor", controls.order_temperature))
        ranked = ranked / temperature - torch.log(-torch.log(drawn))
    if controls.score_override is not None:
        override = controls.score_override
        ranked = torch.where(override.isnan(), ranked, override)
    return ranked


def _sure_or_run(
    score: torch.Tensor, masked: torch.Tensor, targets: Targets, controls: Controls
) -> torch.Tensor:
    """The scores where as many as the quota reach the threshold; else infinite for the quota's
    positions from the first mask on, and the others last.
    """
    batch, position = targets.length.shape[0], targets.position
    of = targets.spread(torch.arange(batch, device=position.device))
    sure = masked & (score >= targets.spread(controls.rule_value))
    count = torch.zeros_like(targets.length).index_add_(0, of, sure.long())
    masks = torch.where(masked, position, NO_LIMIT)
    first = torch.full_like(targets.length, NO_LIMIT).scatter_reduce_(0, of, masks, "amin")
    run = torch.where(position - targets.spread(first) < targets.spread(controls.quota), 1, -1)
    enough = targets.spread(count >= controls.quota) | score.isnan()
    return torch.where(enough, score, torch.inf * run)


def _surest_within(
    score: torch.Tensor,
    entropy: torch.Tensor,
    masked: torch.Tensor,
    targets: Targets,
    controls: Controls,
) -> torch.Tensor:
    """Infinite where the entropies of the masks with the highest scores, this one's among them,
    sum up to at most the rule's value, the greatest of them left out; the others last.
    """
    of = targets.spread(torch.arange(targets.length.shape[0], device=score.device))
    by = score.masked_fill(~masked, -torch.inf).argsort(descending=True, stable=True)
    by = by[of[by].argsort(stable=True)]  # a sequence's targets, the surest first
    nats = entropy.where(masked, 0.0)[by]
    total = torch.nn.functional.pad(nats.cumsum(0), (1, 0))
    before = targets.spread(total[targets.l_offsets[:-1]])
    # No entropy reaches 64 nats: lifted apart, sequences do not see each other's greatest.
    lift = 64.0 * of
    greatest = (nats + lift).cummax(0).values - lift
    within = total[1:] - before - greatest <= targets.spread(controls.rule_value)
    rank = torch.where(within, torch.inf, -torch.inf).to(score.dtype)
    return score.scatter(0, by, rank).where(~score.isnan(), score)
