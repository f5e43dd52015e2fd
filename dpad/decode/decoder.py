"""The decoder: sequences join it, take steps together, and leave, each by itself."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from dpad import ops
from dpad.decode import device as devices
from dpad.decode import forked, prefix
from dpad.decode.captured_step import CapturedStep
from dpad.decode.controls import Controller, Controls
from dpad.decode.lane import Lane
from dpad.decode.layout import Layout, Targets
from dpad.decode.passes import LONG_CREDIT, Pass, long_ones
from dpad.decode.phases import is_short, passed
from dpad.decode.plan import Planner, draw_suffix
from dpad.decode.replan import Change, apply, seen_by
from dpad.decode.sequence import Sequence
from dpad.decode.step import Decision, DeviceStep, Step
from dpad.decode.workspace import Workspace
from dpad.models.adapter import Adapter

if TYPE_CHECKING:
    from dpad.decode.canvas import Canvas

Failed = dict[Sequence, Exception]  # what ended a sequence in this step
WIDE_BYTES = 1 << 23  # of an MLP's inner rows: from these on, a step's freed memory is given back
FINISHED, NAN, INVALID = (ops.STATUS[n] for n in ("finished", "nan", "invalid"))


class NaNLogitsError(RuntimeError):
    """The model gave NaN logits at a position that was to be committed."""


@dataclass
class Part:
    """The sequences of one pass of a step, whether a graph may replay it, and its layout."""

    live: list[Sequence]
    captured: bool = False
    layout: Layout | None = None


class Decoder:
    """Decodes sequences on one model and `Workspace`, whose size is what was reserved in it.

    A pass that is long beside those of the others is spread over several steps, a few layers in
    each: it takes the work of `share` times their rows from each step. None: no pass is spread.
    With `share_prefix`, a block-causal sequence takes the K/V of the whole blocks that its prompt
    has in common with another's, where that one has computed them.

    `admit` gives a sequence its place, `step` takes one forward of every sequence, `retire` frees a
    place at any time between steps. A sequence that fails ends alone, with its `error`.

    Attributes:
        live: the sequences that are decoded, in the order in which they came.
        seconds: host time spent in "plan", "forward" and "commit".
        steps, passes, positions (rows computed in them), replayed (passes that were a graph's),
        shared (positions whose K/V came from another sequence).
    """

    def __init__(
        self,
        adapter: Adapter,
        workspace: Workspace,
        share: float | None = None,
        share_prefix: bool = False,
    ) -> None:
        self.adapter, self.workspace, self.share = adapter, workspace, share
        self.share_prefix = share_prefix
        # Sequence -> its `Pass`, some layers of which have run.
        self._begun_passes: dict[Sequence, Pass] = {}
        self.graphs, self.canvas = workspace.graphs, cast("Canvas", workspace.canvas)
        self.live: list[Sequence] = []
        self._new: list[Sequence] = []
        self.seconds = dict.fromkeys(("plan", "forward", "commit"), 0.0)
        self.steps = self.passes = self.positions = self.replayed = self.shared = 0
        self._planner, self._controller = Planner(adapter.shift), Controller()
        self._device_steps: dict[Lane, DeviceStep] = {}
        self._captured: dict[Lane, tuple[Layout, CapturedStep | None]] = {}
        # Sequence -> what its replan has asked the device for in this step.
        self._numbers: dict[Sequence, torch.Tensor | None] = {}
        # The passes of the last step, while nothing that they depend on changes.
        self._parts: list[Part] | None = None
        self._row_bytes = adapter.mlp_width * adapter.dtype.itemsize
        self._begun = self._at = time.perf_counter()

    # --- who is decoded --------------------------------------------------------------------------

    def admit(self, q: Sequence) -> bool:
        """Gives a sequence its canvas row and K/V range; False if there is no room now.

        Raises:
            ValueError: it is longer than the canvas, or needs more slots than there are.
            MemoryError: what its commit rule remembers does not fit.
        """
        arena, canvas = self.workspace.arena, self.canvas
        if q.capacity > canvas.length or q.slots > arena.slots:
            raise ValueError(
                f"row {q.number}: {q.capacity} positions need {q.slots} K/V slots; the decoder has "
                f"canvases of {canvas.length} and {arena.slots} slots"
            )
        if not canvas.free_rows:
            return False
        self._device_step(q.lane)
        start = arena.ranges.take(q.slots)
        if start is None:
            return False
        q.start = start
        q.row = canvas.free_rows.pop()
        self.graphs.last_obstacle = q.obstacle()
        if self.share_prefix:
            self.shared += prefix.take(q, self.live, arena)
        self._new.append(q)
        self.live.append(q)
        self._parts = None
        return True

    def retire(
        self, q: Sequence, reason: str = "cancelled", error: Exception | None = None
    ) -> None:
        """Ends a sequence: keeps its result and frees its place."""
        if q not in self._new:
            q.result = self.canvas.take(q)
        else:
            self._new.remove(q)
        self.live.remove(q)
        self._begun_passes.pop(q, None)
        self._parts = None
        self.workspace.arena.ranges.give(q.start, q.slots)
        self.canvas.free_rows.append(q.row)
        q.reason, q.error = reason, error
        if all(other.lane != q.lane for other in self.live):
            self._device_steps.pop(q.lane, None)
            self._captured.pop(q.lane, None)
            self._controller.forget(q.lane)

    def close(self) -> None:
        """Retires everybody."""
        for q in list(self.live):
            self.retire(q)

    # --- a step ----------------------------------------------------------------------------------

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """What steps run in: on the adapter's device, without gradients and autocast."""
        forked.check(self.adapter.device)
        kind = self.adapter.device.type
        cast = (
            torch.autocast(kind, enabled=False)
            if torch.is_autocast_enabled(kind)
            else nullcontext()
        )
        with devices.current(self.adapter.device), torch.inference_mode(), cast:
            yield

    def step(self) -> list[Sequence]:
        """One forward of every sequence, one status read, within `stepping`; returns those that
        have ended.
        """
        self._at, before = time.perf_counter(), self.positions
        failed: Failed = {}
        self._begin(failed)
        ready, spread, parts = self.live, [], self._parts
        if parts is None or failed:
            ready = [q for q in self.live if q not in failed]
            spread = self._spread(ready)
            if spread:
                ready = [q for q in ready if q not in spread]
            parts = self._arranged(ready)
        self._parts = None if spread or failed else parts
        for part in parts:
            self._pass(part, failed)
        if spread:
            ready = ready + self._long_passes(spread, ready, failed)
        ended = self._advance(ready, failed)
        if (self.positions - before) * self._row_bytes >= WIDE_BYTES:
            devices.give_back(self.adapter.device)
        self._lap("commit")
        self.steps += 1
        return ended

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._at
        self._at = now

    def _begin(self, failed: Failed) -> None:
        """Loads the canvases of new sequences, and draws the suffix of every new block."""
        if self._new:
            new, self._new = self._new, []
            self.graphs.prepare(self.adapter, self.workspace.arena)
            self._captured.clear()  # the model may have changed since
            self.canvas.load(new)
            for hooks, part in _grouped(new, "hooks"):
                if hooks.on_begin is not None:
                    self._call(failed, part, hooks.on_begin, self.canvas, part)
        fresh = [q for q in self.live if q.kept is None and q not in failed]
        self.canvas.begin_blocks([q for q in fresh if q.rule.remembers])
        for q in fresh:
            if q.hooks.kept is not None:
                q.kept = self._call(failed, [q], q.hooks.kept, q)
        for _, part in _grouped([q for q in fresh if q.hooks.kept is None], "suffix"):
            self._call(failed, part, draw_suffix, part)
        for q in fresh:
            q.kept_by_block.append(q.kept)
            q.kept_at[len(q.forwards)] = q.kept

    def _call(
        self,
        failed: Failed,
        sequences: Iterable[Sequence],
        function: Callable[..., Any],
        *args: Any,
    ) -> Any:
        """Calls a caller's function; what it raises ends its sequences."""
        try:
            return function(*args)
        except Exception as error:
            failed.update(dict.fromkeys(sequences, error))

    def _arranged(self, ready: list[Sequence]) -> list[Part]:
        """The `Part`s of a step: sequences that share a lane go together.

        Passes that a graph may replay go apart from the others, except where a caller looks on, who
        would see two steps.
        """
        parts: dict[tuple[Lane, bool, bool], list[Sequence]] = {}
        eager = {q for q in ready if not self._replayable(q)}
        looked_at = {q.hooks for q in eager if q.hooks.on_step is not None}
        for q in ready:
            captured = q not in eager and q.hooks not in looked_at
            unseen = q.hooks.on_step is not None and not q.width  # nothing to look at
            parts.setdefault((q.lane, captured, unseen), []).append(q)
        return [
            Part([q for _, same in _grouped(part, "hooks") for q in same], captured)
            for (_, captured, _), part in parts.items()
        ]

    def _replayable(self, q: Sequence) -> bool:
        """Whether a graph may replay the next pass of a sequence."""
        return self.graphs.active and is_short(q) and not q.obstacle()

    def _pass(self, part: Part, failed: Failed) -> None:
        """Queues one pass and its commit."""
        live, step = part.live, self._device_step(part.live[0].lane)
        try:
            layout, controls = self._planned(step, part)
            watched = any(q.hooks.on_step is not None or q.replan is not None for q in live)
            graph = self._graph(step, layout, controls, watched) if part.captured else None
            if graph is not None:
                self._lap("plan")
                graph(layout, controls)
                self.replayed += 1
                self._lap("forward")
                targets, decision = graph.decided(layout) if watched else (None, None)
                work: Pass | None = None
            else:
                work = Pass.begin(live, step, layout, controls)
                self._lap("plan")
                work.run()
                targets, decision = self._decided(work)
        except Exception as error:
            failed.update(dict.fromkeys(live, error))
            return
        self._taken(step, live, targets, decision, failed, work)

    def _planned(self, step: DeviceStep, part: Part) -> tuple[Layout, Controls]:
        """The layout and the controls of a pass, on the host."""
        if part.layout is None:
            part.layout = self._planner.layout(part.live)
        self.positions += part.layout.rows
        self.passes += 1
        return part.layout, self._controller.of(step.lane, part.live)

    def _decided(self, work: Pass) -> tuple[Targets, Decision]:
        """The `Targets` and the `Decision` of a pass whose layers have run."""
        logits = work.logits()
        self._lap("forward")
        return work.decide(logits)

    def _taken(
        self,
        step: DeviceStep,
        live: list[Sequence],
        targets: Targets | None,
        decision: Decision | None,
        failed: Failed,
        work: Pass | None = None,
    ) -> None:
        """After a commit: schedules go on, and those that look on are called."""
        for q in live:
            q.schedule.taken(q)
        looked_at = any(q.hooks.on_step is not None and q.width for q in live)
        if looked_at and targets is not None and decision is not None:
            self._show(step, live, targets, decision, failed)
        if any(q.replan is not None for q in live):
            scanned = (lambda number: None) if work is None else work.scan_of
            for seen in seen_by(live, targets, decision, scanned, self.canvas):
                q = seen.q
                self._numbers[q] = self._call(failed, [q], q.replan.look, seen)

    def _spread(self, ready: list[Sequence]) -> list[Sequence]:
        """The sequences whose pass is spread over steps: begun, or long and not replayed."""
        if self.share is None or len(ready) < 2:
            return [q for q in ready if q in self._begun_passes]
        long = {q for q in long_ones(ready) if not self._replayable(q)}
        return [q for q in ready if q in self._begun_passes or q in long]

    def _long_passes(
        self, spread: list[Sequence], others: list[Sequence], failed: Failed
    ) -> list[Sequence]:
        """Runs some layers of each pass that is spread; the sequences whose pass is complete."""
        credit, complete = None, []
        if others and self.share is not None:
            credit = max(self.share * sum(q.rows for q in others), LONG_CREDIT)
        for q in spread:
            try:
                if q not in self._begun_passes:
                    step = self._device_step(q.lane)
                    begun = Pass.begin([q], step, *self._planned(step, Part([q])))
                    self._begun_passes[q] = begun
                if not self._begun_passes[q].run(credit):
                    continue
                done = self._begun_passes.pop(q)
                self._taken(done.step, [q], *self._decided(done), failed, done)
            except Exception as error:
                failed[q] = error
            complete.append(q)
        return complete

    def _device_step(self, lane: Lane) -> DeviceStep:
        if lane not in self._device_steps:
            self.canvas.keep_spare_rows_free_of(lane.mask_id)
            arena = self.workspace.arena
            self._device_steps[lane] = DeviceStep(self.adapter, arena, self.canvas, lane)
        return self._device_steps[lane]

    def _graph(
        self, step: DeviceStep, layout: Layout, controls: Controls, watched: bool
    ) -> CapturedStep | None:
        """The captured step of a pass, or None; asked once for the passes of a layout."""
        found = self._captured.get(step.lane)
        if found is None or found[0] is not layout:
            graph = self.graphs.step_for(step, layout, controls, watched)
            found = self._captured[step.lane] = layout, graph
        return found[1]

    def _show(
        self,
        step: DeviceStep,
        live: list[Sequence],
        targets: Targets,
        decision: Decision,
        failed: Failed,
    ) -> None:
        """Calls those that look on, each with its own sequences."""
        first = row = 0
        for hooks, part in _grouped(live, "hooks"):
            last, rows = first + len(part), slice(row, row + sum(q.width for q in part))
            if hooks.on_step is not None:
                number = max(len(q.forwards) for q in part)
                mine, decided = targets.part(first, last, rows), [t[rows] for t in decision]
                rest = self.canvas, step.lane, step.end_ids
                view = Step(number, part, mine, decided[0], decided[1], decided[2], *rest)
                self._call(failed, part, hooks.on_step, view)
            first, row = last, rows.stop

    # --- after a step ----------------------------------------------------------------------------

    def _advance(self, ready: list[Sequence], failed: Failed) -> list[Sequence]:
        """Reads the status once and moves every sequence on; returns those that have ended."""
        asked = {q: n for q, n in self._numbers.items() if n is not None}
        self._numbers, numbers = {}, {}
        read = self.canvas.fetch(asked.values()) if asked else None
        if ready:
            status, head_masked = self.canvas.read_status()
        if asked:
            parts = cast("torch.Tensor", read).split([n.numel() for n in asked.values()])
            numbers = {q: part.tolist() for q, part in zip(asked, parts, strict=True)}
        now, moved, ended = time.perf_counter() - self._begun, set(ready), []
        for q in list(self.live):
            reason = None
            if q in moved and q not in failed:
                q.times.append(now)
                seen = status[q.row], head_masked[q.row], numbers.get(q)
                reason = self._call(failed, [q], self._move_on, q, *seen)
            if q in failed or reason is not None:
                self.retire(q, reason or "error", failed.get(q))
                ended.append(q)
        return ended

    def _move_on(
        self, q: Sequence, status: int, head_masked: int, numbers: list[float] | None
    ) -> str | None:
        """Takes up the status of one sequence; the reason of its end, or None."""
        if status == INVALID:
            raise RuntimeError(
                f"row {q.number}, block {q.block}, forward {len(q.forwards)}: a position, token or "
                "length was out of range on the device: nothing was returned"
            )
        if status == NAN:
            raise NaNLogitsError(
                f"the model gave NaN logits for row {q.number}, block {q.block}, forward "
                f"{len(q.forwards)}: nothing was returned and the model is unchanged"
            )
        q.forwards.append(q.block)
        done = passed(q, status, head_masked)
        if q.replan is not None:
            change = q.replan.change(q, numbers, done is not None)
            if change is not None:
                return self._changed(q, change)
            if q.replan.finished:
                done = FINISHED
        if done is None:
            if q.place != q.planned:
                self._parts = None  # another kind of pass follows
            q.check_progress()
            return None
        end, final = q.current[1], q.replan is None or q.replan.final(q)
        self._parts, more = None, q.advance()
        going = more and done != FINISHED
        # Text between this block and the next is handed out with it.
        until = q.current[0] if going else min(end, q.shown) if done == FINISHED else q.shown
        if final or not going:
            block = self.canvas.tokens[q.row, q.reported : until]
            q.reported = until
            if q.hooks.on_block is not None and q.hooks.on_block(q, block):
                return "criteria"
        if done == FINISHED and (end <= q.shown or self._holds_end(q, block)):
            return "stop"
        if not going and q.replan is not None and q.replan.ended:
            return "stop"
        return None if going else "length"

    def _changed(self, q: Sequence, change: Change) -> str | None:
        """Applies a `Change`; the reason of the sequence's end, or None."""
        apply(q, change)
        if change.source is not None:
            self.canvas.rewrite(q, change)
        self._parts = None
        q.check_progress()
        return change.reason

    @staticmethod
    def _holds_end(q: Sequence, tokens: torch.Tensor) -> bool:
        """Whether the end that was found in the last block is part of the result."""
        return bool(torch.isin(tokens.cpu(), torch.tensor(q.end_ids, device="cpu")).any())


def _grouped(sequences: Iterable[Sequence], name: str) -> Iterable[tuple[Any, list[Sequence]]]:
    """(value, sequences) for each value of an attribute, in the order of their first ones."""
    found: dict[Any, list[Sequence]] = {}
    for q in sequences:
        found.setdefault(getattr(q, name), []).append(q)
    return found.items()
