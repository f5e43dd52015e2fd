"""A sequence: all that it is decoded by, and where it stands. Nothing of it lives elsewhere."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import torch

from dpad import ops
from dpad.decode import phases
from dpad.decode.commit import Rule
from dpad.decode.lane import NO_HOOKS, Hooks, Sampling, lane_of
from dpad.decode.replan import Change, Replan, windows
from dpad.decode.schedule import Schedule
from dpad.decode.suffix import Suffix

_IDS = count()  # no two sequences of a process share an id


# Stands in fields until their value is known.
_LATER: Any = None


def blocks_of(
    prompt_length: int, length: int, block_length: int, causal: bool = False
) -> list[tuple[int, int]]:
    """The positions [start, end) that each block generates, left to right; the last may be shorter.

    Blocks are counted from the prompt's end, or if `causal` from position 0: the first one may then
    hold the prompt's tail.
    """
    begin = prompt_length - prompt_length % block_length if causal else prompt_length
    starts = range(begin, length, block_length)
    return [(max(s, prompt_length), min(s + block_length, length)) for s in starts]


class Result(NamedTuple):
    """What is left of a sequence on the device: `tokens` and `committed_at` (number of the forward,
    -1: never) int64 ``[length]``, `committed` (probability then) float64 ``[length]``.
    """

    tokens: torch.Tensor
    committed_at: torch.Tensor
    committed: torch.Tensor


@dataclass(eq=False)
class Sequence:
    """A canvas, the options it is decoded with, and its state.

    Args:
        tokens: int64 ``[length]`` on the host: the canvas that it begins with, prompt and masks,
            without padding.
        prompt_length: tokens that are given; behind them come blocks of `block_length`.
        mask_id: id of the mask token.
        rule: `commit.Rule`; suffix: `Suffix`; cache: "none", "prefix" or "dual".
        seed, row_key: what the random draws are keyed by.
        end_ids, early_stop, fill_id: one of `end_ids` ends the text and `fill_id` fills the rest;
            `stop_in` "block": in a finished block; "text": as soon as no mask precedes it.
        look_back: blocks before its own that a refresh computes anew; the K/V of those before stay
            as they are. None: everything is computed anew, and so it is in each `refresh_period`-th
            block.
        attention: "full", or "block-causal": K/V of finished blocks is exact and stays, and the
            suffix is never seen.
        first_given: block-causal, where a row predicts the next position: the first token of a
            block comes from the last row of the block before (Fast-dLLM v2, arXiv 2509.26328).
        sub_block_length: a block-causal block is decoded in parts of this length, left to right.
        saves_apart: prompt and finished blocks are saved in passes of their own, the last one too.
        steps_of: over how many blocks the rule's steps are spread; None: all.
        context: block-causal: the positions, up to the block's end, that a pass computes and looks
            at; the text before them is forgotten. None: all.
        bounded: a block ends with its fixed steps, also with masks left; `whole_saves`: it is not
            saved then.
        shown: positions of the canvas that belong to the result; None: all.
        published_shift: a cached pass of a shift model leaves the predecessor out, and the refresh
            commits the block's first position only (Dream's published caches).
        all_steps: a block takes all its fixed steps, with or without masks left.
        replan: what changes it at the end of its steps, or None.
        capacity: positions that it may grow to; None: it does not grow.
        given: bool ``[length]``, where the canvas holds text from the beginning; None: in the
            prompt. Blocks that hold nothing else are left out.
        number: its number in its call, for messages and the caller's code.
        cohort: the sequences whose masks are averaged for Dream's quota, itself among them, where a
            published batch is replayed; None: itself alone.

    State: `row` and `start`, the canvas row and first K/V slot while it is admitted; `block`,
    `step` within it, `kept` of it. Positions [start, end): `current`, those that the block
    generates; `window`, with the prompt's tail that it may hold; `part`, those that are decoded
    now; denoising fills them from `open_from` on. `widest`: the longest block. `kept_by_block`,
    what was kept as often as it was drawn, and `kept_at`, by the forward that followed; `text`,
    where the host knows of text, for those that are replanned or filled in; `forwards`, the block
    of each forward, and `times` of it; `changes`, each with the number of its forward. After its
    end: `reason`, or the `error` that ended it, and its `result`. `planned`: the `place` of the
    pass that was laid out last.
    """

    tokens: torch.Tensor
    prompt_length: int
    block_length: int
    mask_id: int
    rule: Rule
    suffix: Suffix
    cache: str = "none"
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: tuple[int, ...] = ()
    early_stop: bool = True
    stop_in: str = "block"
    fill_id: int = 0
    seed: int = 0
    row_key: int = 0
    look_back: int | None = None
    refresh_period: int | None = None
    published_shift: bool = False
    all_steps: bool = False
    attention: str = "full"
    first_given: bool = False
    sub_block_length: int | None = None
    saves_apart: bool = False
    steps_of: int | None = None
    context: int | None = None
    bounded: bool = False
    whole_saves: bool = False
    shown: int = _LATER
    hooks: Hooks = NO_HOOKS
    replan: Replan | None = None
    capacity: int = _LATER
    given: torch.Tensor | None = None
    number: int = 0
    cohort: list["Sequence"] | None = None

    def __post_init__(self) -> None:
        self.id = next(_IDS)
        self.length = self.tokens.shape[0]
        self.causal = self.attention == "block-causal"
        self.capacity = self.length if self.capacity is None else self.capacity
        ends = self.prompt_length, self.length, self.block_length
        self.blocks, self.text = blocks_of(*ends, self.causal), None
        if self.given is not None:
            self.text = self.given.clone()
            self.blocks = windows(self.text, self.prompt_length, self.block_length)
        elif self.replan is not None:
            self.text = torch.arange(self.length, device="cpu") < self.prompt_length
        self.shown = self.length if self.shown is None else self.shown
        self.first_alone = self.published_shift and self.cache != "none"
        # Whether the row before a block joins a pass that begins with it, with a shift.
        self.predecessor = not (self.causal or self.published_shift)
        self.plan_schedule()
        self.lane = lane_of(self)
        self.row: int = _LATER  # while it is admitted
        self.start: int = _LATER
        self.planned: phases.Place = _LATER
        self.block = self.saved = 0  # saved: leading slots whose K/V is exact
        self.shared = 0  # of these, taken from another sequence
        self.redraws = 0  # how often it was replanned: keys the draws of its suffix
        self.reported = self.prompt_length  # up to here `Hooks.on_block` has seen it
        self.enter()
        self.kept_by_block: list[torch.Tensor] = []
        self.kept_at: dict[int, torch.Tensor] = {}
        self.changes: list[tuple[int, Change]] = []
        self.forwards: list[int] = []
        self.spans: list[tuple[int, int]] = []
        self.times: list[float] = []
        self.reason: str | None = None
        self.error: Exception | None = None
        self.result: Result = _LATER  # after its end

    @property
    def phase(self) -> str:
        """The phase of the next pass, see `dpad.decode.phases`."""
        return phases.phase_of(self)

    @property
    def place(self) -> phases.Place:
        """Where the next pass stands, a `phases.Place`."""
        return phases.PHASES[self.phase](self)

    @property
    def targets(self) -> tuple[int, int]:
        """The positions [start, end) that the next pass predicts."""
        place = self.place
        return place.first_target, place.end

    @property
    def width(self) -> int:
        """How many positions the next pass predicts."""
        start, end = self.targets
        return end - start

    @property
    def rows(self) -> int:
        """Rows of the next pass, without a predecessor that may join it."""
        return phases.rows_of(self, self.place)

    @property
    def refresh(self) -> bool:
        """Whether the next pass computes more than those that denoise a block."""
        return self.phase != "denoise" or (self.causal and self.saved < self.window[0])

    @property
    def ended(self) -> bool:
        return self.reason is not None or self.error is not None

    @property
    def streams(self) -> int:
        """Forwards that the sequence takes at a time: two with guidance."""
        return 2 if self.sampling.guidance else 1

    @property
    def slots(self) -> int:
        """K/V slots that it needs, in all its streams."""
        return self.streams * self.capacity

    @property
    def plan_key(self) -> tuple[Any, ...]:
        """What its part of a pass follows from; of no other sequence, whatever row that has."""
        return self.id, self.block, self.redraws, self.planned

    @property
    def scans(self) -> bool:
        """Whether the next pass hands the logits of the whole answer to the replan."""
        if self.replan is None or not self.replan.scans:
            return False
        return self.place.scope != ops.SCOPES["block"]

    def obstacle(self) -> str | None:
        """Why its short passes cannot be captured as graphs, or None."""
        if self.cache == "none":
            return "cache='none' has no cached steps"
        if self.replan is not None and self.replan.scans and self.cache != "dual":
            return f"{type(self.replan).__name__} looks at the whole answer in every step"
        name = self.hooks.within_step()
        return name and f"{name} is called in the middle of every step"

    def release(self) -> None:
        """After its end: lets go of the caller's code and of other sequences."""
        self.hooks, self.lane, self.cohort, self.replan = NO_HOOKS, _LATER, None, None

    def advance(self) -> bool:
        """To the next block; False when there is none."""
        if self.block + 1 == len(self.blocks):
            return False
        if self.text is not None:
            self.text[slice(*self.current)] = True
        self.block += 1
        self.enter()
        return True

    def plan_schedule(self) -> None:
        """The schedule of the blocks as they are."""
        lengths = [self.block_length] * len(self.blocks)
        if not self.causal:  # tokens may be given behind the prompt, too
            text = self.tokens != self.mask_id if self.text is None else self.text
            given = text.tolist()
            lengths = [e - s - sum(given[s:e]) for s, e in self.blocks]
        # A `Replan` may ask for a block beyond `block_length`.
        self.widest = max(self.block_length, max(end - start for start, end in self.blocks))
        self.schedule = Schedule(self.rule, lengths, self.first_alone, self.steps_of)

    def next_part(self) -> bool:
        """To the next part of the block; False when there is none."""
        if self.part[1] == self.current[1]:
            return False
        self._enter_part(self.part_number + 1)
        self.head_known = False
        return True

    def _enter_part(self, number: int) -> None:
        self.part_number = number
        self.part: tuple[int, int] = self.window if self.causal else self.current
        if self.sub_block_length:
            (begin, last), step = self.window, self.sub_block_length
            start = begin + number * step
            self.part = start, min(start + step, last)

    def enter(self) -> None:
        """At the first part of a block that has masks to fill."""
        self.step = 0
        self.kept: torch.Tensor = _LATER
        self.current: tuple[int, int] = self.blocks[self.block]
        start, end = self.current
        begin = start - start % self.block_length if self.causal else start
        self.window: tuple[int, int] = (begin, end)
        self.open_from: int = start + int(self.first_given and start == begin)
        self.masks = self.schedule.lengths[self.block]  # as far as a fixed quota counts them
        self.outcome: int | None = None
        self.block_cached = False
        step = self.sub_block_length or self.block_length
        self._enter_part((self.open_from - begin) // step)
        self.head_known = self.part[0] < self.open_from

    def check_progress(self) -> None:
        """Each step fills a mask or waits for its schedule: one that goes on is a fault, not work.
        A caller's function in the loop may mask positions again, as often as it likes.
        """
        if self.replan is not None:
            most = 8 * self.capacity if self.replan.most_steps is None else self.replan.most_steps
            if len(self.forwards) > most:
                raise RuntimeError(
                    f"row {self.number}: not done after {len(self.forwards)} forwards, at most "
                    f"{most} were expected of {type(self.replan).__name__}"
                )
            return
        expected = self.schedule.most_steps(self.block)
        if self.step > expected and self.hooks.on_step is None:
            raise RuntimeError(
                f"row {self.number}, block {self.block}: not done after {self.step} steps, which "
                "is more than its masks can take: what the device reports does not change"
            )
