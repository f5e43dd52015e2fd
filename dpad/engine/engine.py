"""`Engine`: many requests on one model, each decoded as it would be alone."""

import inspect
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from typing import Any, Self

import torch
from transformers import GenerationConfig

from dpad.decode.decoder import Decoder
from dpad.decode.sequence import Sequence
from dpad.decode.workspace import Workspace
from dpad.engine.capacity import Capacity, capacity
from dpad.engine.intake import check_request, job_of, recipe_of
from dpad.engine.request import Request, RequestCancelled
from dpad.engine.waiting import Waiting
from dpad.generation.api import adapter_of
from dpad.generation.checks import refuse_unserved
from dpad.generation.conventions import Conventions
from dpad.generation.output import DPadOutput
from dpad.generation.recipe import Recipe
from dpad.models.adapter import snapshot
from dpad.models.parts import UnsupportedModelError
from dpad.values import flag, int64, optional, whole

SHARE = 0.15  # of the others' work: what a long pass adds to each step, see `Decoder`
# What a sequence that waits was made for.
DECODED_BY = ("family", "attention", "shift", "block_length", "mask_id", "vocab_size")


class QueueFull(RuntimeError):
    """As many requests wait as the engine's queue holds."""


class EngineClosed(RuntimeError):
    """The engine takes no more requests."""


class Engine:
    """Decodes requests that come and go on one model: continuous batching.

    A request's tokens and forwards are those of `dpad.generate` alone, with the same seed and row
    key, whatever runs beside it. Every option may differ from request to request; requests that
    differ in rule, filters, guidance or token ids take separate passes of the same step.

    Args:
        model: as `dpad.generate` takes it, patched or not; it is not changed.
        max_sequences: how many requests are decoded at a time.
        max_tokens: K/V slots of all of them together; a request takes as many as its prompt and
            answer have positions, twice with guidance. See `capacity`.
        queue: how many requests may wait.
        max_length: positions of one request at most; None: as many as the model and `max_tokens`
            allow.
        share_prefix: requests of a block-causal model take the K/V of the whole blocks that their
            prompt has in common with a running request's (few-shot prompts), and do not compute
            them: a copy, exact as the blocks' K/V is. `stats` counts these positions as "shared".
        on_step: a function (seconds, sequences, positions) that is told about every step, in the
            thread that took it.

    Methods may be called from any thread. Without `start` nothing runs by itself: `step`, or
    whoever waits for a request, does the work.

    Raises:
        TypeError, ValueError: a bad argument, by name and value.
        UnsupportedModelError: not a model that dpad knows.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        max_sequences: int = 16,
        max_tokens: int = 65536,
        queue: int = 256,
        max_length: int | None = None,
        share_prefix: bool = False,
        on_step: Callable[[float, int, int], object] | None = None,
    ) -> None:
        max_sequences = whole(1)("max_sequences", max_sequences)
        max_tokens, queue = whole(1)("max_tokens", max_tokens), whole(1)("queue", queue)
        max_length = optional(whole(1))("max_length", max_length)
        self.model, self._handle = model, getattr(model, "_dpad_handle", None)
        self.adapter, self._seen = adapter_of(model), snapshot(model)
        self.max_sequences, self.max_tokens = max_sequences, max_tokens
        self.max_length = min(max_length or max_tokens, max_tokens, self.adapter.max_positions)
        self._workspace = Workspace(self._handle.cuda_graphs if self._handle else True)
        self._decoder: Any = None  # a `Decoder` once requests are admitted
        self._waiting = Waiting(queue)
        self._running: dict[Sequence, Request] = {}
        # `_lock`: whoever takes a step. `_gate`: the queue, never held for long, so that nobody who
        # submits waits for a step. Who wants both takes `_lock` first.
        self._lock, self._gate, self._work = (
            threading.RLock(),
            threading.Lock(),
            threading.Condition(),
        )
        self.on_step, self.share_prefix = on_step, flag("share_prefix", share_prefix)
        self._thread: threading.Thread | None = None
        self._closing = self._closed = False
        self._failure: BaseException | None = None
        self._submitted = self.steps = 0
        self.outcomes: Counter[str] = Counter()

    # --- requests --------------------------------------------------------------------------------

    def submit(
        self,
        ids: Any,
        *,
        generation_config: GenerationConfig | Recipe | None = None,
        seed: int | None = None,
        row_key: int = 0,
        priority: float = 0,
        timeout: float | None = None,
        stream: str | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Any = None,
        callback_on_step_end_tensor_outputs: Any = None,
        kept_suffix: Any = None,
        noise: Callable[..., Any] | None = None,
        confidences: Callable[..., Any] | None = None,
        reward: Any = None,
        **options: Any,
    ) -> Request:
        """Queues one prompt; returns its `Request` at once.

        Args:
            ids: the prompt's token ids, a list or int tensor ``[n]`` or ``[1, n]``, no padding.
            generation_config, options, and the caller's own code: as for `dpad.generate`; whatever
                the code raises ends this request alone.
            seed, row_key: what the random draws are keyed by; a seed of None is drawn.
            priority: greater ones are admitted first; waiting adds to it.
            timeout: seconds until the request ends by itself, waiting included.
            stream: which events iterating over the request gives before its `End`: None, "blocks",
                or "drafts" for the block after every step as well.

        Raises:
            TypeError, ValueError: a bad option, or a request that can never fit, with the numbers.
            QueueFull: too many wait.
            EngineClosed: after `drain` or `close`.
        """
        check_request(stream, priority, timeout)
        recipe = generation_config
        if not isinstance(recipe, Recipe):
            recipe = recipe_of(self.model, self.adapter, generation_config, options)
        conventions = Conventions(
            None,
            logits_processor,
            stopping_criteria,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            callback_on_step_end_tensor_outputs,
        )
        supplied: dict[str, Any] = {
            "kept_suffix": kept_suffix,
            "noise": noise,
            "confidences": confidences,
        }
        supplied["reward"] = reward
        draws = optional(int64)("seed", seed), [int64("row_key", row_key)]
        job = job_of(self.adapter, recipe, ids, supplied, conventions, draws)
        self._check_size(job.sequences[0], recipe.config.max_new_tokens)
        with self._gate:
            if self._closing:
                raise EngineClosed("the engine takes no more requests")
            if self._waiting.full:
                self.outcomes["refused"] += 1
                raise QueueFull(f"{len(self._waiting)} requests wait: queue = {self._waiting.size}")
            self._submitted += 1
            request = Request(self, self._submitted, job, stream, priority, timeout)
            request.sequence.hooks = request.watched(request.sequence.hooks)
            self._waiting.put(request, self.steps)
        self._wake()
        return request

    def _check_size(self, q: Sequence, new: int) -> None:
        """Refuses a sequence that can never be admitted."""
        positions = q.length if q.capacity is None else q.capacity
        if positions > self.max_length or q.slots > self.max_tokens:
            text = f"a prompt of {q.prompt_length} + max_new_tokens of {new}"
            if q.given is not None:
                text = f"a text of {int(q.given.sum())} + gaps"
            raise ValueError(
                f"{text} = {positions} positions in {q.streams} streams: the engine has "
                f"max_length = {self.max_length} and max_tokens = {self.max_tokens}"
            )

    def map(
        self, prompts: Iterable[Any], *, progress: bool = False, **options: Any
    ) -> Iterator[DPadOutput]:
        """Decodes an iterable of prompts; yields their `dpad.DPadOutput` in order.

        Prompts are taken as there is room for them: the iterable may be endless. The n-th one's
        row key is n.

        Args:
            prompts: token ids each, or dicts of the arguments of `submit`, ids under "ids".
            progress: show a bar (tqdm).
            options: arguments of `submit` for all of them.
        """
        waiting: deque[Request] = deque()
        shared = None
        with _bar(progress, prompts) as bar:
            for number, prompt in enumerate(prompts):
                own = prompt if isinstance(prompt, dict) else {"ids": prompt}
                while len(waiting) >= 2 * self.max_sequences or self._waiting.full:
                    yield self._next(waiting, bar)
                request = {"row_key": number, **options, **own}
                if own.keys() <= OWN:  # its configuration is everybody's, checked once
                    shared = shared or self._shared(options)
                    own = {n: v for n, v in request.items() if n in OWN}
                    request = own | {"generation_config": shared}
                waiting.append(self.submit(**request))
            while waiting:
                yield self._next(waiting, bar)

    def _shared(self, options: dict[str, Any]) -> Recipe:
        """The `Recipe` of requests whose configuration is that of all."""
        config = {n: v for n, v in options.items() if n not in OWN}
        given = config.pop("generation_config", None)
        return recipe_of(self.model, self.adapter, given, config)

    @staticmethod
    def _next(waiting: deque[Request], bar: Any) -> DPadOutput:
        output = waiting.popleft().result()
        bar.update()
        return output

    # --- work ------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the engine has a thread of its own."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def accepts(self) -> bool:
        """Whether requests may be submitted."""
        return not self._closing

    @property
    def broken(self) -> bool:
        """Whether the engine itself has failed; every request has ended with the cause."""
        return self._failure is not None

    def step(self) -> bool:
        """One forward of every running request, after those that wait were admitted.

        Returns whether there was anything to do.

        Raises what broke the engine itself; every request then ends with it.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                return self._step()
            except BaseException as error:
                self._fail(error)
                raise

    def _step(self) -> bool:
        self._drop()
        self._admit()
        if not self._running:
            return False
        self.steps += 1
        begun, count, before = time.perf_counter(), len(self._running), self._decoder.positions
        with self._decoder.stepping():
            ended = self._decoder.step()
        for q in ended:
            self._end(self._running.pop(q), q.reason, q.error)
        if self.on_step is not None:
            seconds = time.perf_counter() - begun
            self.on_step(seconds, count, self._decoder.positions - before)
        return True

    def _drop(self) -> None:
        """Ends requests that were cancelled or whose time is up."""
        now = time.perf_counter()
        for request in [*self._waiting, *self._running.values()]:
            late = request.deadline is not None and now >= request.deadline
            if not (request.cancelled or late):
                continue
            reason = "cancelled" if request.cancelled else "timeout"
            if request.sequence in self._running:
                del self._running[request.sequence]
                self._decoder.retire(request.sequence, reason)
            else:
                self._leave_queue(request)
            self._end(request, reason)

    def _admit(self) -> None:
        """Moves requests from the queue into the decoder, as long as there is room."""
        if not len(self._waiting) or len(self._running) == self.max_sequences:
            return
        try:
            if not self._ready():
                return
        except UnsupportedModelError as error:
            for waits in list(self._waiting):
                self._leave_queue(waits)
                self._end(waits, "error", error)
            return
        while len(self._running) < self.max_sequences:
            request = self._waiting.first(self.steps)
            if request is None:
                return
            try:
                if not self._decoder.admit(request.sequence):
                    return  # it waits for room, and nobody overtakes it
            except MemoryError as error:
                self._leave_queue(request)
                self._end(request, "error", error)
                continue
            self._leave_queue(request)
            self._running[request.sequence] = request
            request.admit()

    def _ready(self) -> bool:
        """Whether requests can be admitted: the model is looked at as `generate` does at each call.

        Where it has changed since, those that run end first, on the modules as they are.
        """
        seen = snapshot(self.model)
        if seen != self._seen:
            if self._running:
                return False
            had, self.adapter = self.adapter, adapter_of(self.model)
            self._seen, self._decoder = seen, None
            if any(getattr(had, n) != getattr(self.adapter, n) for n in DECODED_BY):
                raise UnsupportedModelError("the model has changed since the request was submitted")
        refuse_unserved(self.adapter)
        if self._decoder is None:
            size = (self.max_sequences, self.max_length, self.max_tokens)
            self._workspace.reserve(self.adapter, *size)
            parts = self.adapter, self._workspace, SHARE, self.share_prefix
            self._decoder = Decoder(*parts)
        if self.adapter.fused is not None:
            self.adapter.fused.refresh()
        return True

    def _leave_queue(self, request: Request) -> None:
        with self._gate:
            self._waiting.remove(request)

    def _end(self, request: Request, reason: str, error: BaseException | None = None) -> None:
        self.outcomes[reason if error is None else "failed"] += 1
        if reason == "cancelled":
            error = RequestCancelled(f"request {request.request_id} was cancelled")
        elif reason == "timeout":
            error = TimeoutError(f"request {request.request_id} has not ended in its time")
        request.end(reason, error)

    def _fail(self, error: BaseException) -> None:
        """The engine itself broke: nobody waits for ever."""
        with self._gate:
            self._failure, self._closing = error, True
            waiting, self._waiting = self._waiting, Waiting(1)
        for request in [*self._running.values(), *waiting]:
            with suppress(Exception):
                self._end(request, "error", error)
        self._running.clear()

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Runs steps in a thread of its own until `close`; returns the engine."""
        with self._lock:
            if self._closing:
                raise EngineClosed("the engine takes no more requests")
            if not self.running:
                self._thread = threading.Thread(target=self._run, name="dpad-engine", daemon=True)
                self._thread.start()
        return self

    def _run(self) -> None:
        while not self._closed:
            with suppress(BaseException):  # every request has got it
                if self.step():
                    continue
            if self._failure is not None:
                return
            with self._work:
                self._work.wait(0.05)

    def _wake(self) -> None:
        with self._work:
            self._work.notify_all()

    def drain(self, timeout: float | None = None) -> bool:
        """Takes no more requests, and waits until all have ended; False if `timeout` seconds were
        not enough.
        """
        with self._gate:
            self._closing = True
        end = None if timeout is None else time.perf_counter() + timeout
        while self._running or len(self._waiting):
            if end is not None and time.perf_counter() >= end:
                return False
            if self.running:
                time.sleep(0.002)
            else:
                self.step()
        return True

    def close(self) -> None:
        """Cancels what has not ended, stops the thread and frees the buffers; twice is harmless."""
        with self._gate:
            self._closing = self._closed = True
        self._wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lock:
            for request in [*self._waiting, *self._running.values()]:
                request.cancelled = True
            self._drop()
            self._workspace, self._decoder = Workspace(False), None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what is known ---------------------------------------------------------------------------

    def capacity(self) -> Capacity:
        """The `Capacity` of the engine: what its buffers and its largest pass need; allocates
        nothing.
        """
        held = self._workspace.arena.bytes
        block = min(self.max_length, 32)
        return capacity(
            self.adapter, self.max_sequences, self.max_tokens, self.max_length, block, held
        )

    def stats(self) -> dict[str, int]:
        """Counts so far: "running", "waiting", "submitted", every reason of an end, "refused";
        "steps", "passes", "positions", "shared" ones; "kv_slots" that are held, of "max_tokens".
        """
        decoder, arena = self._decoder, self._workspace.arena
        counts = {"running": len(self._running), "waiting": len(self._waiting)}
        counts |= {"submitted": self._submitted, "steps": self.steps, **self.outcomes}
        for name in ("passes", "positions", "replayed", "shared"):
            counts[name] = 0 if decoder is None else getattr(decoder, name)
        counts |= {"kv_slots": arena.slots - arena.ranges.free, "max_tokens": self.max_tokens}
        return counts


def _bar(progress: bool, prompts: Iterable[Any]) -> Any:
    from tqdm.auto import tqdm

    total = len(prompts) if isinstance(prompts, Sized) else None
    return tqdm(total=total, disable=not progress)


# Arguments of `submit` that are a request's own; the others are its configuration.
OWN = set(inspect.signature(Engine.submit).parameters) - {"self", "options", "generation_config"}
