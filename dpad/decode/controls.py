"""The numbers of a step beside its layout, made on the host: draws, thresholds, quotas."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dpad.decode.lane import Lane
from dpad.decode.packed import float64s, int64s, sent

if TYPE_CHECKING:
    from dpad.decode.schedule import Means
    from dpad.decode.sequence import Sequence


@dataclass
class Controls:
    """What changes from step to step beside the layout; on the host until `to`.

    rng int64 ``[batch, 3]`` (seed, row key, forward); temperature (of the draws) and rule_value
    float64 ``[batch]``; quota int64 ``[batch]``. Where a lane asks for them: masks_to_leave int64
    ``[batch]`` (where >= 0 the quota is the masks that are left but that many); score_override
    float64 ``[logit_rows]`` (a number replaces the score that the rule ranks, NaN leaves it);
    numbers float64 ``[batch, n]`` of adaptive rules (`Schedule.numbers`);
    scale (the logits are divided by it), top_p, order_temperature and guidance float64, top_k int64
    ``[batch]``. `most_k`: a power of two that no top_k exceeds.
    """

    rng: torch.Tensor
    temperature: torch.Tensor
    rule_value: torch.Tensor
    quota: torch.Tensor
    masks_to_leave: torch.Tensor | None = None
    score_override: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    top_p: torch.Tensor | None = None
    top_k: torch.Tensor | None = None
    order_temperature: torch.Tensor | None = None
    guidance: torch.Tensor | None = None
    numbers: torch.Tensor | None = None
    most_k: int | None = None

    def to(self, device: torch.device) -> "Controls":
        """The same on another device."""
        return self if self.rng.device == device else sent(self, device=device)[0]


class Controller:
    """The host's half of the `Controls`; what has not changed is the same tensor as before, and is
    not sent again.
    """

    def __init__(self) -> None:
        # Lane -> (sampling and rules of its sequences, controls that follow from them).
        self._fixed: dict[Lane, tuple[list[Any], dict[str, Any]]] = {}
        # Lane -> (rule values and quotas as lists, as tensors).
        self._rules: dict[Lane, tuple[list[Any], tuple[Any, ...]]] = {}

    def of(self, lane: Lane, live: list["Sequence"]) -> Controls:
        """`Controls` of the step that sequences of one lane take next."""
        keys = [key for q in live for key in (q.seed, q.row_key, len(q.forwards))]
        rng = int64s(keys).view(-1, 3)
        means: Means = {}
        plan = [q.schedule.told(q, means) for q in live]
        made = self._rules.get(lane)
        if made is None or made[0] != plan:
            values, quotas, leaves, told = zip(*plan, strict=True)
            counts = int64s(quotas + leaves).view(2, -1)
            sent = None
            if told[0] is not None:
                sent = torch.tensor(told, dtype=torch.float64, device="cpu")
            made = self._rules[lane] = plan, (float64s(values), *counts.unbind(), sent)
        value, quota, leave, numbers = made[1]
        override = None
        if any(q.first_alone and q.refresh for q in live):
            override = torch.cat([_first_position(q) for q in live])
        return Controls(
            rng=rng,
            rule_value=value,
            quota=quota,
            masks_to_leave=leave if any(q.schedule.carried for q in live) else None,
            score_override=override,
            numbers=numbers,
            **self._constant(lane, live),
        )

    def forget(self, lane: Lane) -> None:
        """Nobody is in it any more."""
        self._fixed.pop(lane, None)
        self._rules.pop(lane, None)

    def _constant(self, lane: Lane, live: list["Sequence"]) -> dict[str, Any]:
        """What stays as long as sequences of the same options are in the pass, by name."""
        key: list[Any] = [q.sampling for q in live]
        if lane.drawn_order:
            key += [q.rule for q in live]
        made = self._fixed.get(lane)
        if made is None or made[0] != key:
            made = self._fixed[lane] = key, _constant(lane, live)
        return made[1]


def _constant(lane: Lane, live: list["Sequence"]) -> dict[str, Any]:
    fixed: dict[str, Any] = {}
    asked = [q.sampling for q in live]
    if lane.filters is None:
        fixed["temperature"] = float64s(s.temperature for s in asked)
    else:  # a filter divides the logits by it, and draws are at 1
        fixed["temperature"] = float64s(s.temperature > 0 for s in asked)
        fixed["scale"] = float64s(s.temperature or 1.0 for s in asked)
        if lane.filters[0]:
            fixed["top_p"] = float64s(s.top_p or 1.0 for s in asked)
        if lane.filters[1]:
            top_k = [s.top_k or 1 for s in asked]
            fixed["top_k"] = int64s(top_k)
            fixed["most_k"] = power_of_two(max(top_k))
    if lane.drawn_order:
        fixed["order_temperature"] = float64s(q.rule.order_temperature for q in live)
    if lane.guided:
        fixed["guidance"] = float64s(s.guidance for s in asked)
    return fixed


def power_of_two(n: int) -> int:
    """The smallest one that is not below n >= 1."""
    return 1 << (n - 1).bit_length()


def _first_position(q: "Sequence") -> torch.Tensor:
    """In a refresh the block's first position outranks everything, the others nothing."""
    alone = q.first_alone and q.refresh
    fill = -torch.inf if alone else torch.nan
    score = torch.full((q.width,), fill, dtype=torch.float64, device="cpu")
    if alone:
        score[0] = torch.inf
    return score
