"""Who is decoded: requests wait, get a place, take steps, and end."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from dpad.decode.decoder import Decoder
from dpad.decode.sequence import Sequence
from dpad.decode.workspace import Workspace
from dpad.engine.request import Request, RequestCancelled
from dpad.engine.waiting import Waiting
from dpad.generation.api import adapter_of
from dpad.generation.checks import refuse_unserved
from dpad.models.adapter import Adapter, snapshot
from dpad.models.parts import UnsupportedModelError

SHARE = 0.15  # of the others' work: what a long pass adds to each step, see `Decoder`
# What a sequence that waits was made for.
DECODED_BY = ("family", "attention", "shift", "block_length", "mask_id", "vocab_size")


class QueueFull(RuntimeError):
    """As many requests wait as the engine's queue holds."""


class EngineClosed(RuntimeError):
    """The engine takes no more requests."""


class Room(NamedTuple):
    """What there is room for: `sequences` at a time, each of up to `length` positions, with
    `tokens` K/V slots in all.
    """

    sequences: int
    length: int
    tokens: int


class Scheduler:
    """The requests of an engine, from the queue to their end.

    `step`, `fail` and `close` are for one caller at a time. The queue has a lock of its own, never
    held for long, so that nobody who submits waits for a step.

    Attributes:
        waiting, running: the requests; `running` by sequence.
        closing: nobody is let in any more; failure: what has broken the engine, or None.
        submitted, steps, outcomes: counts so far, the last one by reason.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        adapter: Adapter,
        room: Room,
        queue: int,
        share_prefix: bool,
        capture: bool,
    ) -> None:
        self.model, self.room, self._share_prefix = model, room, share_prefix
        self.adapter, self._seen = adapter, snapshot(model)
        self.workspace = Workspace(capture)
        self.decoder: Any = None  # a `Decoder` once requests are admitted
        self.waiting, self._gate = Waiting(queue), threading.Lock()
        self.running: dict[Sequence, Request] = {}
        self.closing = False
        self.failure: BaseException | None = None
        self._cancelled, self._next_deadline = False, math.inf  # what `_drop` looks at
        self.submitted = self.steps = 0
        self.outcomes: Counter[str] = Counter()

    # --- from any thread -------------------------------------------------------------------------

    def put(self, make: Callable[[int], Request]) -> Request:
        """Lets a request wait; `make` gets its number.

        Raises:
            QueueFull: too many wait.
            EngineClosed: nobody is let in any more.
        """
        with self._gate:
            if self.closing:
                raise EngineClosed("the engine takes no more requests")
            if self.waiting.full:
                self.outcomes["refused"] += 1
                raise QueueFull(f"{len(self.waiting)} requests wait: queue = {self.waiting.size}")
            self.submitted += 1
            request = make(self.submitted)
            self.waiting.put(request, self.steps)
            if request.deadline is not None:
                self._next_deadline = min(self._next_deadline, request.deadline)
        return request

    def cancel(self, request: Request) -> None:
        """Ends a request at the next step."""
        request.cancelled = self._cancelled = True

    def stop(self) -> None:
        """Lets nobody in any more."""
        with self._gate:
            self.closing = True

    # --- a step ----------------------------------------------------------------------------------

    def step(self) -> tuple[float, int, int] | None:
        """One forward of every running request, after those that wait were admitted.

        Returns seconds, sequences and positions of the step, or None: there was nothing to do.
        """
        self._drop()
        self._admit()
        if not self.running:
            return None
        self.steps += 1
        begun, count, before = time.perf_counter(), len(self.running), self.decoder.stats.positions
        with self.decoder.stepping():
            ended = self.decoder.step()
        for q in ended:
            self._end(self.running.pop(q), q.reason, q.error)
        return time.perf_counter() - begun, count, self.decoder.stats.positions - before

    def _drop(self) -> None:
        """Ends requests that were cancelled or whose time is up."""
        now = time.perf_counter()
        if not self._cancelled and now < self._next_deadline:
            return
        self._cancelled = False
        for request in [*self.waiting, *self.running.values()]:
            late = request.deadline is not None and now >= request.deadline
            if not (request.cancelled or late):
                continue
            reason = "cancelled" if request.cancelled else "timeout"
            if request.sequence in self.running:
                del self.running[request.sequence]
                self.decoder.retire(request.sequence, reason)
            else:
                self._leave_queue(request)
            self._end(request, reason)
        with self._gate:
            left = [*self.waiting, *self.running.values()]
            deadlines = [request.deadline for request in left if request.deadline is not None]
            self._next_deadline = min(deadlines, default=math.inf)

    def _admit(self) -> None:
        """Moves requests from the queue into the decoder, as long as there is room."""
        if not len(self.waiting) or len(self.running) == self.room.sequences:
            return
        try:
            if not self._ready():
                return
        except UnsupportedModelError as error:
            for waits in list(self.waiting):
                self._leave_queue(waits)
                self._end(waits, "error", error)
            return
        while len(self.running) < self.room.sequences:
            request = self.waiting.first()
            if request is None:
                return
            try:
                if not self.decoder.admit(request.sequence):
                    return  # it waits for room, and nobody overtakes it
            except MemoryError as error:
                self._leave_queue(request)
                self._end(request, "error", error)
                continue
            self._leave_queue(request)
            self.running[request.sequence] = request
            request.admit()

    def _ready(self) -> bool:
        """Whether requests can be admitted: the model is looked at as `generate` does at each call.

        Where it has changed since, those that run end first, on the modules as they are.
        """
        seen = snapshot(self.model)
        if seen != self._seen:
            if self.running:
                return False
            had, self.adapter = self.adapter, adapter_of(self.model)
            self._seen, self.decoder = seen, None
            if any(getattr(had, n) != getattr(self.adapter, n) for n in DECODED_BY):
                raise UnsupportedModelError("the model has changed since the request was submitted")
        refuse_unserved(self.adapter)
        if self.decoder is None:
            self.workspace.reserve(self.adapter, *self.room)
            self.decoder = Decoder(self.adapter, self.workspace, SHARE, self._share_prefix)
        if self.adapter.fused is not None:
            self.adapter.fused.refresh()
        return True

    # --- ends ------------------------------------------------------------------------------------

    def _leave_queue(self, request: Request) -> None:
        with self._gate:
            self.waiting.remove(request)

    def _end(self, request: Request, reason: str, error: BaseException | None = None) -> None:
        self.outcomes[reason if error is None else "failed"] += 1
        if reason == "cancelled":
            error = RequestCancelled(f"request {request.request_id} was cancelled")
        elif reason == "timeout":
            error = TimeoutError(f"request {request.request_id} has not ended in its time")
        request.end(reason, error)

    def fail(self, error: BaseException) -> None:
        """The engine itself broke: nobody waits for ever."""
        with self._gate:
            self.failure, self.closing = error, True
            waiting, self.waiting = self.waiting, Waiting(1)
        for request in [*self.running.values(), *waiting]:
            with suppress(Exception):
                self._end(request, "error", error)
        self.running.clear()

    def close(self) -> None:
        """Cancels all that has not ended and frees the buffers."""
        for request in [*self.waiting, *self.running.values()]:
            self.cancel(request)
        self._drop()
        self.workspace, self.decoder = Workspace(False), None

    def stats(self) -> dict[str, int]:
        """See `Engine.stats`."""
        arena = self.workspace.arena
        counts = {"running": len(self.running), "waiting": len(self.waiting)}
        counts |= {"submitted": self.submitted, "steps": self.steps, **self.outcomes}
        for name in ("passes", "positions", "replayed", "shared"):
            counts[name] = 0 if self.decoder is None else getattr(self.decoder.stats, name)
        slots = arena.slots - arena.ranges.free
        return counts | {"kv_slots": slots, "max_tokens": self.room.tokens}
