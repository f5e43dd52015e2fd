"""`Engine`: many requests on one model, each decoded as it would be alone."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Self

import torch
from transformers import GenerationConfig

from dpad.decode.sequence import Sequence
from dpad.engine.capacity import Capacity, capacity
from dpad.engine.intake import check_request, job_of, recipe_of
from dpad.engine.mapping import mapped
from dpad.engine.request import Request
from dpad.engine.scheduler import EngineClosed, Room, Scheduler
from dpad.generation.api import adapter_of
from dpad.generation.conventions import Conventions
from dpad.generation.output import DPadOutput
from dpad.generation.recipe import Recipe
from dpad.models.adapter import Adapter
from dpad.values import MOST_ROWS, about, flag, function, int64, number, optional, whole


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
        max_sequences = whole(1, MOST_ROWS)("max_sequences", max_sequences)
        max_tokens, queue = whole(1)("max_tokens", max_tokens), whole(1)("queue", queue)
        max_length = optional(whole(1))("max_length", max_length)
        self.model, self._handle = model, getattr(model, "_dpad_handle", None)
        adapter = adapter_of(model)
        self.max_sequences, self.max_tokens = max_sequences, max_tokens
        self.max_length = min(max_length or max_tokens, max_tokens, adapter.max_positions)
        self.on_step = optional(function)("on_step", on_step)
        self.share_prefix = flag("share_prefix", share_prefix)
        room = Room(max_sequences, self.max_length, max_tokens)
        capture = self._handle.cuda_graphs if self._handle else True
        self._scheduler = Scheduler(model, adapter, room, queue, self.share_prefix, capture)
        # `_lock`: whoever takes a step; `_work`: wakes the thread.
        self._lock, self._work = threading.RLock(), threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._stepper: int | None = None  # the thread that runs code of requests

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
        priority, timeout = check_request(stream, priority, timeout)
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
        request = self._scheduler.put(
            lambda number: Request(self, number, job, stream, priority, timeout)
        )
        self._wake()
        return request

    def _check_size(self, q: Sequence, new: int) -> None:
        """Refuses a sequence that can never be admitted."""
        positions = q.length if q.capacity is None else q.capacity
        if positions > self.max_length or q.slots > self.max_tokens:
            text = f"a prompt of {q.prompt_length} + max_new_tokens of {new}"
            if q.given is not None:
                text = f"a text of {int(q.given.sum())} + gaps"
            raise about("input_ids", "max_new_tokens")(
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
            prompts: ids each, as `submit` takes them, or dicts of its arguments, ids under "ids".
            progress: show a bar (tqdm).
            options: arguments of `submit` for all of them.
        """
        return mapped(self, prompts, progress, options)

    # --- work ------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the engine has a thread of its own."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def adapter(self) -> Adapter:
        """The model as it is decoded."""
        return self._scheduler.adapter

    @property
    def steps(self) -> int:
        """Steps that were taken."""
        return self._scheduler.steps

    @property
    def full(self) -> bool:
        """Whether as many requests wait as the queue holds."""
        return self._scheduler.waiting.full

    @property
    def accepts(self) -> bool:
        """Whether requests may be submitted."""
        return not self._scheduler.closing

    @property
    def broken(self) -> bool:
        """Whether the engine itself has failed; every request has ended with the cause."""
        return self._scheduler.failure is not None

    def step(self) -> bool:
        """One forward of every running request, after those that wait were admitted.

        Returns whether there was anything to do.

        Raises what broke the engine itself; every request then ends with it. RuntimeError: code
        that runs within a step takes another one.
        """
        self._refuse_within_step("step()")
        with self._lock:
            if self._scheduler.failure is not None:
                raise self._scheduler.failure
            try:
                self._stepper = threading.get_ident()
                try:
                    taken = self._scheduler.step()
                finally:
                    self._stepper = None
                if taken is not None and self.on_step is not None:
                    self.on_step(*taken)
                return taken is not None
            except BaseException as error:
                self._scheduler.fail(error)
                raise

    def go_on(self, what: str, wait: Callable[[], object]) -> bool:
        """For whoever waits: takes a step, or calls `wait` where a thread takes them.

        Returns whether there was anything to do. RuntimeError within a step: `what` needs others.
        """
        self._refuse_within_step(what)
        if self.running and self._thread is not threading.current_thread():
            wait()
            return True
        return self.step()

    def _refuse_within_step(self, what: str) -> None:
        """Code of a request that waited for further steps would wait for itself."""
        if self._stepper == threading.get_ident():
            raise RuntimeError(
                f"{what} within a step of its engine: code of a request cannot wait for the engine"
            )

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Runs steps in a thread of its own until `close`; returns the engine."""
        with self._lock:
            if not self.accepts:
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
            if self.broken:
                return
            with self._work:
                self._work.wait(0.05)

    def _cancel(self, request: Request) -> None:
        """Ends a request within a step."""
        self._scheduler.cancel(request)
        self._wake()

    def _wake(self) -> None:
        with self._work:
            self._work.notify_all()

    def drain(self, timeout: float | None = None) -> bool:
        """Takes no more requests, and waits until all have ended; False if `timeout` seconds were
        not enough.
        """
        timeout = optional(number)("timeout", timeout)
        self._refuse_within_step("drain()")
        scheduler = self._scheduler
        scheduler.stop()
        end = None if timeout is None else time.perf_counter() + timeout
        while scheduler.running or len(scheduler.waiting):
            if end is not None and time.perf_counter() >= end:
                return False
            self.go_on("drain()", partial(time.sleep, 0.002))
        return True

    def close(self) -> None:
        """Cancels what has not ended, stops the thread and frees the buffers; twice is harmless.

        RuntimeError: called by code that runs within a step.
        """
        self._refuse_within_step("close()")
        self._scheduler.stop()
        self._closed = True
        self._wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lock:
            self._scheduler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what is known ---------------------------------------------------------------------------

    def capacity(self) -> Capacity:
        """The `Capacity` of the engine: what its buffers and its largest pass need; allocates
        nothing.
        """
        held = self._scheduler.workspace.arena.bytes
        block = min(self.max_length, 32)
        return capacity(
            self.adapter, self.max_sequences, self.max_tokens, self.max_length, block, held
        )

    def stats(self) -> dict[str, int]:
        """Counts so far: "running", "waiting", "submitted", every reason of an end, "refused";
        "steps", "passes", "positions", "shared" ones; "kv_slots" that are held, of "max_tokens".
        """
        return self._scheduler.stats()
