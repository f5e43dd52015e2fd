"""What the device does in one step: gather, forward, scores, commit. It never waits for the host.

Everything here is queued without looking at a value, so that a step can run eagerly or be replayed
as a graph (`dpad.decode.graphs`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from dpad import ops
from dpad.decode import adaptive, ancestral, ranking
from dpad.decode.cache import KVArena
from dpad.decode.commit import NO_LIMIT
from dpad.decode.controls import Controls
from dpad.decode.filters import filter_logits
from dpad.decode.forward import Layers, guided
from dpad.decode.lane import Lane
from dpad.decode.layout import Layout, Targets
from dpad.models.adapter import Adapter

if TYPE_CHECKING:
    from dpad.decode.adaptive import Memory
    from dpad.decode.canvas import Canvas
    from dpad.decode.sequence import Sequence


class Decision(NamedTuple):
    """Logits ``[logit_rows, vocab]`` that decided, token int64 and probability float64
    ``[logit_rows]`` of every target, committed or not.
    """

    logits: torch.Tensor
    token: torch.Tensor
    probability: torch.Tensor


class DeviceStep:
    """The device's part of the steps of one `Lane`, on the adapter, K/V arena and canvas it is
    given.
    """

    def __init__(self, adapter: Adapter, arena: KVArena, canvas: "Canvas", lane: Lane) -> None:
        self.adapter, self.arena, self.canvas, self.lane = adapter, arena, canvas, lane
        self.device = adapter.device
        self.memory = None
        if lane.remembered:
            self.memory = canvas.memory(lane.remembered, adapter.vocab_size)
        ids = partial(torch.tensor, dtype=torch.int64, device=self.device)
        self.end_ids, self.suppress, self.exclude, self.mask_id = map(
            ids, (lane.end_ids, lane.suppress, lane.exclude, [lane.mask_id])
        )
        self.barred = ids((*lane.suppress, lane.mask_id))
        # A filter leaves an id that can be chosen and that the soft-max counts.
        self.uncounted = ids((*lane.suppress, *lane.exclude))

    def __call__(self, layout: Layout, controls: Controls) -> Decision:
        """The whole step, for those who have nothing to do in between; a `Decision`."""
        layers = self.layers(layout)
        layers.run()
        return self.decide(layout, controls, self.logits(layers, layout, controls))

    def layers(self, layout: Layout) -> Layers:
        """The `Layers` of a pass, none of which has run."""
        tokens = self.canvas.gather(layout, self.lane.mask_id, self.lane.hides_given)
        every = layout
        if self._whole_logits is not None:
            rows = torch.arange(layout.rows, device=tokens.device)
            every = replace(layout, logit_row=rows, l_offsets=layout.q_offsets)
        elif layout.scan_row is not None:
            offsets = cast("torch.Tensor", layout.scan_offsets)
            every = replace(layout, logit_row=layout.scan_row, l_offsets=offsets)
        hidden = self.adapter.embed(tokens)
        limit = layout.key_limit
        return Layers(self.adapter, hidden, every, self.arena, every.logit_row, key_limit=limit)

    def logits(
        self,
        layers: Layers,
        layout: Layout,
        controls: Controls,
        live: list["Sequence"] | None = None,
    ) -> torch.Tensor:
        """Logits ``[logit_rows, vocab]`` of the targets of a pass whose layers have run, or of all
        that it scans, guidance mixed in; `live` are its sequences, for a lane with hooks.
        """
        logits = self.adapter.head(layers.normed())
        if self._whole_logits is not None:
            return self._whole_logits(layout, live, logits, self.canvas)
        if not self.lane.guided:
            return logits
        guidance = cast("torch.Tensor", controls.guidance)
        if layout.scan_offsets is None:
            return guided(logits, layout.targets.spread(guidance))
        sizes = layout.scan_offsets[: guidance.shape[0] + 1].diff()
        return guided(logits, torch.repeat_interleave(guidance, sizes))

    @property
    def _whole_logits(self) -> Callable[..., Any] | None:
        hooks = self.lane.hooks
        return None if hooks is None else hooks.whole_logits

    def decide(
        self,
        layout: Layout,
        controls: Controls,
        logits: torch.Tensor,
        live: list["Sequence"] | None = None,
    ) -> Decision:
        """Scores the logits and commits by rule; a `Decision`."""
        lane, targets, hooks = self.lane, layout.targets, self.lane.hooks
        if lane.score == "credit":
            masked = self.eligible(targets)
            told, memory = cast("torch.Tensor", controls.numbers), cast("Memory", self.memory)
            logits = adaptive.credited(logits, targets, masked, told, memory)
        decisive = logits if lane.filters is None else self._filtered(logits, targets, controls)
        temperature = controls.temperature
        race: ancestral.Race | None = None
        if lane.score == "ancestral":
            told = cast("torch.Tensor", controls.numbers)
            race = ancestral.Race(decisive, targets, self.canvas, told, lane.mask_id)
            decisive, temperature = race.logits, temperature * race.at_random
        noise = None
        if hooks is not None and hooks.noise is not None and targets.position.shape[0]:
            noise = hooks.noise(live, targets.position, logits.shape[-1])
        token, *scores = ops.confidence(
            decisive,
            targets.l_offsets,
            targets.position,
            controls.rng,
            temperature,
            self.suppress,
            self.exclude,
            noise,
            lane.round_scores,
        )
        if lane.scaled_scores is not None:
            scores = list(self._scores_of(token, logits, targets, controls))
        probability, margin, entropy = scores
        drawn = token
        if race is not None:
            drawn, ranked = race.decided(token, probability)
            token = drawn
        elif lane.score == "no_mask":
            drawn, probability, ranked = self._without_masks(token, scores[0], logits, layout)
        else:
            ranked = ranking.ranked(
                self, targets, controls, (probability, margin, entropy), live, logits
            )
        rule = (controls.rule_value, self._quota(targets, controls), lane, self.end_ids)
        self.canvas.commit(targets, drawn, ranked, probability, *rule)
        if lane.remasks and race is not None and race.again is not None:
            self.canvas.mask_again(targets, race.again, lane.mask_id)
        if lane.tells_head:
            self.canvas.look_at_heads(targets, lane.mask_id)
        return Decision(logits, token, scores[0])

    def eligible(self, targets: Targets) -> torch.Tensor:
        """Bool ``[logit_rows]``: the target is still a mask."""
        return self.canvas.eligible(targets, self.lane.mask_id)

    def are_spoilt(self, targets: Targets, logits: torch.Tensor) -> bool:
        """Whether the soft-max of a target that is still a mask is NaN; waits for the device."""
        wide = logits.float().index_fill(-1, self.exclude, -torch.inf)
        return bool((self.eligible(targets) & ~wide.logsumexp(-1).isfinite()).any())

    def _quota(self, targets: Targets, controls: Controls) -> torch.Tensor:
        """The most positions that each sequence commits, int64 ``[batch]``."""
        if self.lane.score == "run":  # its quota is in the ranking
            return torch.full_like(controls.quota, NO_LIMIT)
        if controls.masks_to_leave is None:
            return controls.quota
        left, leave = self.canvas.masks_left[targets.canvas_row], controls.masks_to_leave
        return torch.where(leave >= 0, left - leave, controls.quota)

    def _without_masks(
        self, token: torch.Tensor, probability: torch.Tensor, logits: torch.Tensor, layout: Layout
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(token, probability, what is ranked) where a model may predict the mask: there the best
        other token, of the soft-max without the mask, ranked below all others (DAEDAL's program).
        """
        targets, masked = layout.targets, token == self.lane.mask_id
        count = targets.length.shape[0]
        best, without, _, _ = ops.confidence(
            logits,
            targets.l_offsets,
            targets.position,
            targets.length.new_zeros(count, 3),
            probability.new_zeros(count),
            self.mask_id,
            self.mask_id,
        )
        ranked = torch.where(masked, without - 2, probability)
        return torch.where(masked, best, token), torch.where(masked, without, probability), ranked

    def _filtered(self, logits: torch.Tensor, targets: Targets, controls: Controls) -> torch.Tensor:
        """Logits / temperature without what the filters leave out."""
        lane, scale = self.lane, cast("torch.Tensor", controls.scale)
        if lane.within_top_p:
            logits = logits.index_fill(-1, self.barred, -torch.inf)
        top_p, top_k = (
            None if limit is None else targets.spread(limit)[:, None]
            for limit in (controls.top_p, controls.top_k)
        )
        return filter_logits(
            logits,
            targets.spread(scale)[:, None],
            top_p,
            top_k,
            self.uncounted,
            controls.most_k,
            lane.top_k_first,
            lane.within_top_p,
        )

    def _scores_of(
        self, token: torch.Tensor, logits: torch.Tensor, targets: Targets, controls: Controls
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The scores that `logits` give tokens which were drawn from filtered ones."""
        if self.lane.scaled_scores:
            scale = targets.spread(cast("torch.Tensor", controls.scale))
            logits = logits / scale[:, None].to(logits.dtype)
        _, _, margin, entropy = ops.confidence(
            logits,
            targets.l_offsets,
            targets.position,
            controls.rng,
            torch.zeros_like(controls.temperature),
            self.suppress,
            self.exclude,
            None,
            self.lane.round_scores,
        )
        wide = logits.float().index_fill(-1, self.exclude, -torch.inf)
        drawn = wide.gather(-1, token[:, None])[:, 0]
        return (drawn - wide.logsumexp(-1)).exp().double(), margin, entropy


@dataclass
class Step:
    """One step of the sequences of one call, as `Hooks.on_step` sees it; nothing was read.

    `number` counts the steps of the call. `live` are the sequences, the step of each within its
    block is `step`, its forward ``len(forwards)``. `logits` ``[logit_rows, vocab]`` are those that
    decided, `token` (int64) and `probability` (float64) ``[logit_rows]`` what the model predicts at
    ``targets.position``, committed or not. Whoever writes to ``canvas.tokens`` calls `settle`.
    """

    number: int
    live: list["Sequence"]
    targets: Targets
    logits: torch.Tensor
    token: torch.Tensor
    probability: torch.Tensor
    canvas: "Canvas"
    lane: Lane
    end_ids: torch.Tensor

    def settle(self) -> None:
        """Takes up what was written to the blocks of this pass: masks left, ends, what is traced.

        A position that holds a mask again was never committed; one that was filled counts as
        committed by this forward, with probability 1. The host's counts of masks follow: one read.
        """
        self.canvas.settle(self.targets, self.lane, self.end_ids)
        left = self.canvas.masks_left.tolist()
        for q in self.live:
            q.masks = left[q.row]
