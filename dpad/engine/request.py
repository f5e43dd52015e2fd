"""A request to an engine: its events, its result, and the way to cancel it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from dpad.decode.lane import Hooks
from dpad.decode.sequence import Sequence
from dpad.engine.events import Block, Draft, End, Event, Timings, Usage
from dpad.generation.job import before_end
from dpad.generation.output import DPadOutput
from dpad.values import number, optional

if TYPE_CHECKING:
    from dpad.engine.engine import Engine
    from dpad.generation.job import Job


class RequestCancelled(RuntimeError):
    """The request was cancelled before its text had ended."""


class Request:
    """One prompt on its way through an `Engine`; made by `Engine.submit`.

    Iterate over it for its events (`Block`, `Draft`, then `End`), or ask for its `result`; both
    work with ``async for`` and ``await`` as well, and from any thread. While the engine has no
    thread of its own (`Engine.start`), whoever waits takes the engine's steps.

    Attributes:
        request_id: a number that no other request of the engine has.
        status: "pending", "decoding", "finished", "cancelled" or "failed".
    """

    def __init__(
        self,
        engine: Engine,
        request_id: int,
        job: Job,
        stream: str | None,
        priority: float,
        timeout: float | None,
    ) -> None:
        self.request_id, self.priority, self.stream = request_id, priority, stream
        self.status = "pending"
        self._engine = engine
        self._job: Any = job  # None after its end
        self.sequence: Sequence = job.sequences[0]
        self._watch(self.sequence.hooks)
        self.submitted = time.perf_counter()
        self.deadline = None if timeout is None else self.submitted + timeout
        self.admitted: float | None = None
        self.first_block: float | None = None
        self.cancelled = False
        self._events: list[Event] = []
        self._news, self._future = threading.Condition(), Future[DPadOutput]()
        self._future.set_running_or_notify_cancel()
        # Of those who wait in an event loop.
        self._listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._done, self._text_ended = 0, False  # tokens of finished blocks

    # --- for whoever asked -----------------------------------------------------------------------

    def cancel(self) -> None:
        """Ends the request within a step; it has no effect on one that has ended."""
        self._engine._cancel(self)

    def result(self, timeout: float | None = None) -> DPadOutput:
        """The `dpad.DPadOutput` of the request, of one row.

        Args:
            timeout: seconds to wait at most.

        Raises:
            RequestCancelled: it was cancelled.
            TimeoutError: its own time was up, or `timeout` is.
            What its own code or the model raised.
            RuntimeError: code that runs within a step would wait for the next ones.
        """
        timeout = optional(number)("timeout", timeout)
        self._drive(self._future.done, timeout)
        if not self._future.done():
            raise TimeoutError(f"request {self.request_id} has not ended after {timeout} s")
        return self._future.result()

    def __await__(self) -> Generator[Any, None, DPadOutput]:
        return self._awaited().__await__()

    async def _awaited(self) -> DPadOutput:
        while not self._future.done() and await self._step_aside():
            pass
        return await asyncio.wrap_future(self._future)

    async def _step_aside(self) -> bool:
        """One step in a thread beside the event loop; False where others have to take them."""
        return not self._engine.running and await asyncio.to_thread(self._engine.step)

    def __iter__(self) -> Iterator[Event]:
        """Its events, each as soon as it is there; `End` is the last one."""
        taken = 0
        while True:
            self._drive(partial(self._past, taken))
            if taken == len(self._events):
                return
            yield self._events[taken]
            taken += 1

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop, taken = asyncio.get_running_loop(), 0
        listener = loop, asyncio.Event()
        with self._news:
            self._listeners.append(listener)
        try:
            while True:
                listener[1].clear()
                while taken < len(self._events):
                    event = self._events[taken]
                    taken += 1
                    yield event
                    if isinstance(event, End):
                        return
                if not await self._step_aside():
                    await listener[1].wait()
        finally:
            with self._news:
                self._listeners.remove(listener)

    def _past(self, taken: int) -> bool:
        """Whether there are more events than so many, or none will come."""
        return len(self._events) > taken or self._future.done()

    def _drive(self, ready: Callable[[], bool], timeout: float | None = None) -> None:
        """Until `ready` is true: by the engine's thread, or by steps taken here."""
        end = None if timeout is None else time.perf_counter() + timeout
        while not ready():
            left = None if end is None else end - time.perf_counter()
            if left is not None and left <= 0:
                return
            wait = partial(self._wait, ready, 0.1 if left is None else min(left, 0.1))
            if not self._engine.go_on(f"request {self.request_id} is waited for", wait):
                return

    def _wait(self, ready: Callable[[], bool], seconds: float) -> None:
        with self._news:
            self._news.wait_for(ready, seconds)

    # --- for the engine --------------------------------------------------------------------------

    def _watch(self, hooks: Hooks) -> None:
        """Adds to `hooks`, which hold the request's own code, what makes its events."""
        block = self._on_first if self.stream is None else self._on_block
        hooks.on_block = self._with(hooks.on_block, block)
        if self.stream == "drafts":
            hooks.on_step = self._with(hooks.on_step, self._on_step)

    @staticmethod
    def _with(own: Callable[..., Any] | None, more: Callable[..., None]) -> Callable[..., Any]:
        """The caller's function, then the engine's; the caller's answer counts."""

        def both(*args: Any) -> Any:
            answer = own(*args) if own is not None else None
            more(*args)
            return answer

        return both

    def _on_first(self, q: Sequence, tokens: torch.Tensor) -> None:
        if self.first_block is None:
            self.first_block = time.perf_counter()

    def _on_block(self, q: Sequence, tokens: torch.Tensor) -> None:
        self._on_first(q, tokens)
        if self._text_ended:
            return
        cut = self._job.conventions.cuts.get(0)
        tokens = tokens[: None if cut is None else cut - self._done].cpu().clone()
        self._done += tokens.shape[0]
        count = before_end(tokens, q.end_ids)
        if count is not None:
            self._text_ended, tokens = True, tokens[: count + 1]
        self._publish(Block(tokens))

    def _on_step(self, step: Any) -> None:
        q = self.sequence
        tokens = step.canvas.tokens[q.row, step.targets.position]
        masked = tokens == q.mask_id
        tokens = torch.where(masked, step.token, tokens)
        self._publish(Draft(tokens.cpu(), step.probability.cpu(), masked.cpu()))

    def _publish(self, event: Event) -> None:
        with self._news:
            self._events.append(event)
            self._news.notify_all()
            for loop, wake in self._listeners:
                with suppress(RuntimeError):  # the event loop was closed
                    loop.call_soon_threadsafe(wake.set)

    def admit(self) -> None:
        """It has got its place."""
        self.admitted, self.status = time.perf_counter(), "decoding"

    def end(self, reason: str, error: BaseException | None = None) -> None:
        """Publishes the end; `error` is what result() raises."""
        q, begun = self.sequence, self.submitted
        total = time.perf_counter() - begun
        moments = (self.admitted, self.first_block)
        queued, first = (None if at is None else at - begun for at in moments)
        timings = Timings(queued, first, total)
        given = q.prompt_length if q.given is None else int(q.given.sum())
        usage = Usage(given, self._text_tokens(), len(q.forwards))
        self.status = "cancelled" if reason == "cancelled" else "failed" if error else "finished"
        output: Any = None if error is not None else self._job.output(vars(timings))
        q.release()  # nothing waits for the collector of cycles
        self._job = None
        self._publish(End(reason, usage, timings))
        if error is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(output)
        with self._news:
            self._news.notify_all()

    def _text_tokens(self) -> int:
        """Tokens of the answer before its first end id, of what was committed."""
        q = self.sequence
        if q.result is None:
            return 0
        if q.given is not None:  # those that fill gaps
            return int((q.result.committed_at >= 0).sum())
        answer = q.result.tokens[q.prompt_length : q.shown].cpu()
        answer = answer[: self._job.conventions.cuts.get(0)]
        answer = answer[: before_end(answer, q.end_ids)]
        return len(answer) - answer.tolist().count(q.mask_id)
