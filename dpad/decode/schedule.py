"""Schedules: how many positions a rule commits in each step of each block of one sequence."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from dpad import ops
from dpad.decode import ancestral
from dpad.decode.commit import NO_LIMIT, Rule
from dpad.decode.rules import MOST_NUMBERS

if TYPE_CHECKING:
    from dpad.decode.sequence import Sequence


# Rule value, quota, masks to leave, and the numbers of an adaptive rule or None.
Told = tuple[float, int, int, tuple[float, ...] | None]
# By cohort, block and step: the mean of the masks of the rows that are in it, for one pass.
Means = dict[tuple[int, int, int], torch.Tensor]


@lru_cache(maxsize=64)
def _times(eps: float, steps: int) -> torch.Tensor:
    """Times fall linearly from 1 to eps in float32, as published."""
    return torch.linspace(1, eps, steps + 1, device="cpu")


@lru_cache(maxsize=1024)
def _share(eps: float, steps: int, step: int) -> torch.Tensor:
    """1 - t_{step+1} / t_step."""
    times = _times(eps, steps)
    return 1 - times[step + 1] / times[step]


@lru_cache(maxsize=64)
def _steps(steps: int, blocks: int) -> list[int]:
    return ops.transfer_schedule(steps, blocks).tolist()


class Schedule:
    """The most positions that the rule of one sequence commits in each step of each block.

    `first_alone`: the first step of a block commits its first position only (Dream's published
    caches). `blocks`: over how many of the blocks the steps are spread, further ones take as many
    as the last of these; None: all.
    """

    def __init__(
        self,
        rule: Rule,
        block_lengths: list[int],
        first_alone: bool = False,
        blocks: int | None = None,
    ) -> None:
        self.rule, self.lengths, self.first_alone = rule, block_lengths, first_alone
        self.is_quota = rule.number == ops.RULES["quota"]
        self.counted = self.is_quota or rule.number == ops.RULES["at_least"] or rule.score == "run"
        self.carried = rule.steps is not None and rule.schedule == "carried"
        self.steps: list[int] | None = None
        if rule.steps is not None:
            steps, count = _steps(rule.steps, blocks or len(block_lengths)), len(block_lengths)
            self.steps = [*steps[:count], *steps[-1:] * (count - len(steps))]
        self._quota = 1 if self.counted else NO_LIMIT
        # What every step is told where none differs from the others.
        self._always: Told | None = None
        if self.steps is None and rule.adaptive is None and rule.score != "ancestral":
            self._always = rule.value, self._quota, -1, None
        # Steps that a block takes at most, if each fills a mask.
        self._most = [
            min(n, m) for n, m in zip(self.lengths, self.steps or self.lengths, strict=True)
        ]

    def told(self, q: "Sequence", means: Means | None = None) -> Told:
        """What the device is told in the step that `q` takes next: `of`, and `numbers`.

        `means` is filled; it serves the sequences of one pass, before any of them moves on.
        """
        if self._always is not None and not q.first_given:
            return self._always
        return *self.of(q, means), self.numbers(q)

    def of(self, q: "Sequence", means: Means | None = None) -> tuple[float, int, int]:
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
        value, self._quota = self._step(q, {} if means is None else means)
        if self.carried:
            return value, *self._carried(q)
        return value, self._quota, -1

    def numbers(self, q: "Sequence") -> tuple[float, ...] | None:
        """What the device is told of an adaptive rule in the step that `q` takes next, or None."""
        if self.rule.score == "ancestral":
            return self._ancestral(q)
        if self.rule.adaptive is None:
            return None
        own = self.rule.adaptive.numbers()
        before, each = sum(self._most[: q.block]), self._most[q.block]
        progress = (before + min(q.step, each)) / max(sum(self._most), 1)
        return *own, *(MOST_NUMBERS - len(own)) * (0.0,), float(self.lengths[q.block]), progress

    def _ancestral(self, q: "Sequence") -> tuple[float, ...]:
        if q.phase == "next":  # its one token is drawn now
            return ancestral.numbers(None, 1.0, 1.0)
        eps, n = self.rule.eps, self.steps_of(q.block)
        step, last = (1 - eps) / n, self.rule.schedule == "ancestral-last"
        if last:
            eps, n, step = 0.0, n - 1, 1 / n
        time = float(_times(eps, n)[q.step]) if q.step < n else None
        return ancestral.numbers(self.rule.remask, time, step, last)

    def steps_of(self, block: int) -> int:
        """Its fixed steps, or as many as masks."""
        return self.lengths[block] if self.steps is None else self.steps[block]

    def _step(self, q: "Sequence", means: Means) -> tuple[float, int]:
        rule = self.rule
        if self.steps is None:
            return rule.value, 1 if self.counted else NO_LIMIT
        if rule.score == "ancestral":
            return rule.value, NO_LIMIT
        if rule.schedule == "origin":
            return self._share(q.block, q.step), NO_LIMIT
        if rule.score == "within" and q.step >= self.steps[q.block] - 1:
            return float("inf"), NO_LIMIT
        if not self.counted:
            return rule.value, NO_LIMIT
        if rule.schedule == "one":
            return rule.value, 1
        if rule.schedule == "share":
            return rule.value, self._left(q.block, q.step) - self._left(q.block, q.step + 1)
        if rule.schedule == "floor":
            return rule.value, max(1, self.lengths[q.block] // self.steps[q.block])
        return rule.value, self._linear(q) if rule.schedule == "linear" else self._dream(q, means)

    def taken(self, q: "Sequence") -> None:
        """Counts the masks that a fixed quota fills in the step that `of` was asked about last."""
        if self.is_quota and q.phase in ("refresh", "denoise"):
            q.masks -= min(self._quota, q.masks)

    def most_steps(self, block: int) -> int:
        """Steps after which the block must be done, if each fills a mask or waits as it may."""
        return self.lengths[block] + (0 if self.steps is None else self.steps[block])

    def _linear(self, q: "Sequence") -> int:
        """LLaDA's quota; steps without one are not taken: they would change nothing."""
        n, masks = self.steps_of(q.block), self.lengths[q.block]
        if q.step >= min(n, masks):
            return 1
        return masks // n + (q.step < masks % n)

    def _left(self, block: int, step: int) -> int:
        """Masks that RND1's steps before `step` leave: their share of the steps that are left, in
        float32 and rounded down, as published.
        """
        n = self.steps_of(block)
        share = torch.tensor(max(n - step, 0) / n, dtype=torch.float32, device="cpu")
        return int(share * self.lengths[block])

    def _share(self, block: int, step: int) -> float:
        """1 - t_{step+1} / t_step, beyond every draw from the last step on."""
        steps = self.steps_of(block)
        return float("inf") if step >= steps - 1 else float(_share(self.rule.eps, steps, step))

    def _dream(self, q: "Sequence", means: Means) -> int:
        """floor(m (1 - t_{i+1} / t_i)), m the masks, or their mean over the rows of the cohort that
        are in the same step; all at the last step. The block decoders do not take step 0.
        """
        step = q.step
        if self.rule.schedule == "dream-block":
            if self.first_alone and step == 0:
                return 1
            step += not self.first_alone
        if step >= self.steps_of(q.block) - 1:
            return max(q.masks, 1)
        key = id(q.cohort or q), q.block, q.step
        if key not in means:
            means[key] = _mean(q)
        return int(means[key] * _share(self.rule.eps, self.steps_of(q.block), step))

    def _carried(self, q: "Sequence") -> tuple[int, int]:
        """(quota, masks to leave): what the steps so far may leave is the block's masks less its
        share of each of them. Before a block's first step the host knows its masks.
        """
        whole = self.lengths[q.block]
        leave = max(whole - whole // self.steps_of(q.block) * (q.step + 1), 0)
        return (whole - leave, -1) if q.step == 0 else (0, leave)


def _mean(q: "Sequence") -> torch.Tensor:
    """The mean of the masks of the rows of its cohort that are in the same step."""
    here = q.block, q.step
    rows = [r for r in q.cohort or (q,) if r.masks and not r.ended and (r.block, r.step) == here]
    return torch.tensor(sum(r.masks for r in rows), device="cpu") / max(len(rows), 1)
