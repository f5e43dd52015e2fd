"""The passes of a step: planned on the host, run on the device, and shown to those that look on."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch

from dpad.decode.batches import Batch, batches_of, grouped, spread_over_steps
from dpad.decode.captured_step import CapturedStep
from dpad.decode.controls import Controller, Controls
from dpad.decode.device import CAPTURES
from dpad.decode.lane import Lane
from dpad.decode.layout import Layout, Targets
from dpad.decode.passes import Pass
from dpad.decode.plan import Planner
from dpad.decode.replan import seen_by
from dpad.decode.sequence import Sequence
from dpad.decode.stats import Stats
from dpad.decode.step import Decision, DeviceStep, Step
from dpad.decode.workspace import Workspace
from dpad.models.adapter import Adapter

if TYPE_CHECKING:
    from dpad.decode.canvas import Canvas

# The sequences whose pass is complete, with what their replan has asked the device for.
Complete = dict[Sequence, torch.Tensor | None]

LEAST_CREDIT = 32  # rows of work that a long pass may do in each step at least


class Failures(dict[Sequence, Exception]):
    """What ended a sequence in this step."""

    def call(self, sequences: Iterable[Sequence], function: Callable[..., Any], *args: Any) -> Any:
        """Calls a caller's function; what it raises ends its sequences."""
        try:
            return function(*args)
        except Exception as error:
            self.update(dict.fromkeys(sequences, error))


class Runner:
    """Runs the passes of sequences that have their places, on one model and `Workspace`.

    `share` is the `Decoder`'s.

    Attributes:
        begun: sequence -> its `Pass`, some layers of which have run.
    """

    def __init__(
        self, adapter: Adapter, workspace: Workspace, share: float | None, stats: Stats
    ) -> None:
        self.adapter, self.workspace, self.share, self.stats = adapter, workspace, share, stats
        self.graphs, self.canvas = workspace.graphs, cast("Canvas", workspace.canvas)
        self.begun: dict[Sequence, Pass] = {}
        self._planner, self._controller = Planner(adapter.shift), Controller()
        self._device_steps: dict[Lane, DeviceStep] = {}
        self._captured: dict[Lane, tuple[Layout, CapturedStep | None]] = {}
        self._captures, self._prepared = adapter.device.type in CAPTURES, False
        # The batches of the last step, while nothing that they depend on changes.
        self._batches: list[Batch] | None = None

    def device_step(self, lane: Lane) -> DeviceStep:
        """The device's part of the steps of a lane.

        Raises:
            MemoryError: what its commit rule remembers does not fit.
        """
        if lane not in self._device_steps:
            self.canvas.keep_spare_rows_free_of(lane.mask_id)
            arena = self.workspace.arena
            self._device_steps[lane] = DeviceStep(self.adapter, arena, self.canvas, lane)
        return self._device_steps[lane]

    def changed(self) -> None:
        """Another pass follows than the last one: somebody came, left or moved on."""
        self._batches = None

    def prepare(self) -> None:
        """Before the first pass of new sequences: the model may have changed since the last one."""
        if not self._prepared or self._captures:
            self.graphs.prepare(self.adapter, self.workspace.arena)
        self._prepared = True
        self._captured.clear()

    def forget(self, q: Sequence, live: list[Sequence]) -> None:
        """A sequence has gone, and `live` are left."""
        self.changed()
        self.begun.pop(q, None)
        if all(other.lane != q.lane for other in live):
            self._device_steps.pop(q.lane, None)
            self._captured.pop(q.lane, None)
            self._controller.forget(q.lane)

    def run(self, ready: list[Sequence], failures: Failures) -> Complete:
        """One forward of every sequence."""
        if failures:
            self._batches = None
        batches, spread = self._batches, list[Sequence]()
        if batches is None:
            spreads = self.share is not None
            spread = spread_over_steps(ready, self.begun, spreads, self.graphs)
            if spread:
                ready = [q for q in ready if q not in spread]
            batches = batches_of(ready, self.graphs)
            self._batches = None if spread else batches
        complete: Complete = {}
        for batch in batches:
            complete |= self._run(batch, failures)
        return complete | self._run_long(spread, ready, failures) if spread else complete

    def _run(self, batch: Batch, failures: Failures) -> Complete:
        """Queues one pass and its commit."""
        live, step = batch.live, self.device_step(batch.live[0].lane)
        try:
            layout, controls = self._planned(step, batch)
            watched = any(q.hooks.on_step is not None or q.replan is not None for q in live)
            graph = self._graph(step, layout, controls, watched) if batch.captured else None
            if graph is not None:
                self.stats.lap("plan")
                graph(layout, controls)
                self.stats.replayed += 1
                self.stats.lap("forward")
                targets, decision = graph.decided(layout) if watched else (None, None)
                work: Pass | None = None
            else:
                work = Pass.begin(live, step, layout, controls)
                self.stats.lap("plan")
                work.run()
                targets, decision = self._decided(work)
        except Exception as error:
            failures.update(dict.fromkeys(live, error))
            return {}
        return self._taken(step, live, targets, decision, failures, work)

    def whose_nan(self, q: Sequence) -> str:
        """Who made the logits NaN of the pass that a sequence has just taken, in words.

        With logits processors it runs once more without them: the sequence stands where it stood.
        """
        if q.hooks.whole_logits is not None:  # cannot be left out
            return "the model, or a hook on its logits, gave NaN logits"
        if q.hooks.process_logits is None:
            return "the model gave NaN logits"
        step = self.device_step(q.lane)
        layout, controls = self._planner.layout([q]), self._controller.of(q.lane, [q])
        again = Pass.begin([q], step, layout, controls)
        again.run()
        if step.are_spoilt(again.layout.targets, again.model_logits()):
            return "the model gave NaN logits"
        return "the logits after the logits processors are NaN (the model's are not)"

    def _run_long(
        self, spread: list[Sequence], others: list[Sequence], failures: Failures
    ) -> Complete:
        """Runs some layers of each pass that is spread."""
        credit, complete = None, Complete()
        if others and self.share is not None:
            credit = max(self.share * sum(q.rows for q in others), LEAST_CREDIT)
        for q in spread:
            try:
                if q not in self.begun:
                    step = self.device_step(q.lane)
                    self.begun[q] = Pass.begin([q], step, *self._planned(step, Batch([q])))
                if not self.begun[q].run(credit):
                    continue
                done = self.begun.pop(q)
                complete |= self._taken(done.step, [q], *self._decided(done), failures, done)
            except Exception as error:
                failures[q] = error
        return complete

    def _planned(self, step: DeviceStep, batch: Batch) -> tuple[Layout, Controls]:
        """The layout and the controls of a pass, on the host."""
        if batch.layout is None:
            batch.layout = self._planner.layout(batch.live)
        self.stats.positions += batch.layout.rows
        self.stats.passes += 1
        return batch.layout, self._controller.of(step.lane, batch.live)

    def _graph(
        self, step: DeviceStep, layout: Layout, controls: Controls, watched: bool
    ) -> CapturedStep | None:
        """The captured step of a pass, or None; asked once for the passes of a layout."""
        found = self._captured.get(step.lane)
        if found is None or found[0] is not layout:
            graph = self.graphs.step_for(step, layout, controls, watched)
            found = self._captured[step.lane] = layout, graph
        return found[1]

    def _decided(self, work: Pass) -> tuple[Targets, Decision]:
        """The `Targets` and the `Decision` of a pass whose layers have run."""
        logits = work.logits()
        self.stats.lap("forward")
        return work.decide(logits)

    def _taken(
        self,
        step: DeviceStep,
        live: list[Sequence],
        targets: Targets | None,
        decision: Decision | None,
        failures: Failures,
        work: Pass | None = None,
    ) -> Complete:
        """After a commit: schedules go on, and those that look on are called."""
        for q in live:
            q.schedule.taken(q)
        complete: Complete = dict.fromkeys(live)
        looked_at = any(q.hooks.on_step is not None and q.width for q in live)
        if looked_at and targets is not None and decision is not None:
            self._show(step, live, targets, decision, failures)
        if any(q.replan is not None for q in live):
            scanned = (lambda number: None) if work is None else work.scan_of
            for seen in seen_by(live, targets, decision, scanned, self.canvas):
                q = seen.q
                complete[q] = failures.call([q], q.replan.look, seen)
        return complete

    def _show(
        self,
        step: DeviceStep,
        live: list[Sequence],
        targets: Targets,
        decision: Decision,
        failures: Failures,
    ) -> None:
        """Calls those that look on, each with its own sequences."""
        first = row = 0
        for hooks, part in grouped(live, "hooks"):
            last, rows = first + len(part), slice(row, row + sum(q.width for q in part))
            if hooks.on_step is not None:
                number = max(len(q.forwards) for q in part)
                mine, decided = targets.part(first, last, rows), [t[rows] for t in decision]
                rest = self.canvas, step.lane, step.end_ids
                view = Step(number, part, mine, decided[0], decided[1], decided[2], *rest)
                failures.call(part, hooks.on_step, view)
            first, row = last, rows.stop
