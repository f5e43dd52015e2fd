"""What the device does in one step: gather, forward, scores, commit. It never waits for the host.

Everything here is queued without looking at a value, so that a step can run eagerly or be replayed
as a graph (`dpad.decode.graphs`).
"""

from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from dpad import ops
from dpad.decode.filters import filter_logits
from dpad.decode.forward import guided, logits_of_pass
from dpad.decode.packed import moved
from dpad.decode.plan import tensors_of

OUTSIDE = ("kept", "on_begin", "on_step", "on_block")  # what is not called within a step


@dataclass
class Controls:
    """What changes from step to step beside the layout; on the host until `to`.

    rng int64 ``[batch, 3]`` (seed, row key, forward), temperature and amount float64 ``[batch]``,
    quota and leave int64 ``[batch]``: where `leave` >= 0 the quota is the masks that are left but
    that many. `outranks` float64 ``[logit_rows]``: a number replaces the score that the commit rule
    ranks, NaN leaves it.
    """

    rng: torch.Tensor
    temperature: torch.Tensor
    amount: torch.Tensor
    quota: torch.Tensor
    leave: torch.Tensor | None = None
    outranks: torch.Tensor | None = None

    def to(self, device):
        """The same on another device."""
        if self.rng.device == device:
            return self
        return replace(self, **moved(tensors_of(self), device))


@dataclass
class Stop:
    """What `unmask_` needs to end a sequence."""

    end_ids: torch.Tensor
    early: bool
    fill_id: int


class Decision(NamedTuple):
    """Logits ``[logit_rows, vocab]`` that decided, token int64 and probability float64
    ``[logit_rows]`` of every target, committed or not.
    """

    logits: torch.Tensor
    token: torch.Tensor
    probability: torch.Tensor


class DeviceStep:
    """The device's part of a step of one run, on the adapter, K/V cache and canvas it is given."""

    def __init__(self, adapter, cache, canvas, settings):
        self.adapter, self.cache, self.canvas, self.settings = adapter, cache, canvas, settings
        self.filtered = bool(settings.tempered or settings.top_p or settings.top_k)
        device = adapter.device
        ids = lambda values: torch.tensor(values, dtype=torch.int64, device=device)  # noqa: E731
        self.stop = Stop(ids(settings.end_ids), settings.early_stop, settings.fill_id)
        self.suppress, self.exclude = ids(settings.suppress), ids(settings.exclude)

    @property
    def temperature(self):
        """Of the draws: where a filter divides the logits by it, 1."""
        value = self.settings.temperature
        return float(value > 0) if self.filtered else float(value)

    def constants(self):
        """Everything but tensors that a step depends on: steps that differ in it differ."""
        settings, rule = self.settings, self.settings.rule
        return (
            (rule.number, rule.score, rule.order_temperature),
            (settings.temperature, settings.top_p, settings.top_k) if self.filtered else None,
            (settings.early_stop, settings.fill_id, settings.end_ids),
            (settings.suppress, settings.exclude, settings.round_scores),
            (settings.guidance, settings.random_order, self.canvas.mask_id),
        )

    def alone(self):
        """The same step without what a run calls outside of it, for those who keep it longer."""
        step = copy(self)
        step.settings = replace(self.settings, **dict.fromkeys(OUTSIDE))
        return step

    def __call__(self, layout, controls):
        """Both halves of a step, for those who have nothing to do in between; a `Decision`."""
        return self.decide(layout, controls, self.logits(layout))

    def logits(self, layout):
        """Logits ``[logit_rows, vocab]`` of a pass's targets, guidance mixed in."""
        tokens = self.canvas.gather(layout)
        if self.settings.whole_logits is not None:
            rows = torch.arange(layout.rows, device=tokens.device)
            every = replace(layout, logit_row=rows, l_offsets=layout.q_offsets)
            logits = logits_of_pass(self.adapter, tokens, every, self.cache)
            return self.settings.whole_logits(layout, logits, self.canvas)
        logits = logits_of_pass(self.adapter, tokens, layout, self.cache)
        return guided(logits, self.settings.guidance) if self.settings.guidance else logits

    def decide(self, layout, controls, logits):
        """Scores the logits and commits by rule; a `Decision`."""
        settings, targets = self.settings, layout.targets
        decisive = logits
        if self.filtered:
            limits = (settings.temperature, settings.top_p, settings.top_k)
            decisive = filter_logits(logits, *limits, self.suppress)
        noise = None
        if settings.noise is not None:
            noise = settings.noise(layout.live, targets.position, logits.shape[-1])
        token, *scores = ops.confidence(
            decisive,
            targets.l_offsets,
            targets.position,
            controls.rng,
            controls.temperature,
            self.suppress,
            self.exclude,
            noise,
            settings.round_scores,
        )
        ranked = self._ranked(layout, controls, scores)
        quota = controls.quota
        if controls.leave is not None:
            left = self.canvas.masks_left[targets.canvas_row]
            quota = torch.where(controls.leave >= 0, left - controls.leave, quota)
        rule = (settings.rule, controls.amount, quota, self.stop)
        self.canvas.commit(targets, token, ranked, scores[0], *rule)
        return Decision(logits, token, scores[0])

    def _ranked(self, layout, controls, scores):
        """What the commit rule ranks: one of the model's scores, or draws."""
        settings, rule, targets = self.settings, self.settings.rule, layout.targets
        if settings.order is not None:
            return settings.order(layout.live, targets.position, self.canvas.eligible(targets))
        if settings.random_order or rule.score == "uniform":
            return ops.uniform(controls.rng, targets.l_offsets, targets.position)
        probability, margin, entropy = scores
        ranked = {
            "probability": probability,
            "margin": margin,
            "entropy": entropy,
            "negative_entropy": -entropy,
        }[rule.score]
        if rule.order_temperature > 0:
            # The n best of score / t + Gumbel noise are n draws without replacement from
            # softmax(score / t) (arXiv 1903.06059).
            drawn = ops.uniform(controls.rng, targets.l_offsets, targets.position)
            ranked = ranked / rule.order_temperature - torch.log(-torch.log(drawn))
        if controls.outranks is not None:
            ranked = torch.where(controls.outranks.isnan(), ranked, controls.outranks)
        return ranked
