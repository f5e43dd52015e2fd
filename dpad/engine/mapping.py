"""`Engine.map`: an iterable of prompts, decoded as there is room for them."""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from dpad.engine.intake import recipe_of
from dpad.engine.scheduler import QueueFull
from dpad.generation.output import DPadOutput
from dpad.generation.progress import check_progress
from dpad.values import entries

if TYPE_CHECKING:
    from dpad.engine.engine import Engine
    from dpad.engine.request import Request
    from dpad.generation.recipe import Recipe


def mapped(
    engine: Engine, prompts: Iterable[Any], progress: bool, options: dict[str, Any]
) -> Iterator[DPadOutput]:
    """See `Engine.map`; `options` are arguments of `submit`."""
    check_progress(progress)
    return _outputs(engine, entries("prompts", prompts, "prompts"), progress, options)


def _outputs(
    engine: Engine, prompts: Iterable[Any], progress: bool, options: dict[str, Any]
) -> Iterator[DPadOutput]:
    waiting: deque[Request] = deque()
    parameters = set(inspect.signature(engine.submit).parameters)
    own = parameters - {"options", "generation_config"}  # a request's; others are configuration
    shared: Recipe | None = None
    try:
        with _bar(progress, prompts) as bar:
            for number, prompt in enumerate(prompts):
                arguments = isinstance(prompt, dict) and "input_ids" not in prompt
                given = prompt if arguments else {"ids": prompt}
                request = {"row_key": number, **options, **given}
                if given.keys() <= own:  # its configuration is everybody's, checked once
                    shared = shared or _shared(engine, options, own)
                    request = {n: v for n, v in request.items() if n in own}
                    request["generation_config"] = shared
                while waiting and (len(waiting) >= 2 * engine.max_sequences or engine.full):
                    yield _next(waiting, bar)
                waiting.append(_submit(engine, request))
            while waiting:
                yield _next(waiting, bar)
    finally:  # nobody will ask for them
        for left in waiting:
            left.cancel()


def _submit(engine: Engine, request: dict[str, Any]) -> Request:
    """Submits it once the requests of others leave room in the queue."""
    while True:
        while engine.full and engine.accepts:
            engine.go_on("map()", partial(time.sleep, 0.002))
        with suppress(QueueFull):  # somebody else was faster
            return engine.submit(**request)


def _shared(engine: Engine, options: dict[str, Any], own: set[str]) -> Recipe:
    """The `Recipe` of requests whose configuration is that of all."""
    config = {n: v for n, v in options.items() if n not in own}
    given = config.pop("generation_config", None)
    return recipe_of(engine.model, engine.adapter, given, config)


def _next(waiting: deque[Request], bar: Any) -> DPadOutput:
    output = waiting.popleft().result()
    bar.update()
    return output


def _bar(progress: bool, prompts: Iterable[Any]) -> Any:
    from tqdm.auto import tqdm

    total = len(prompts) if isinstance(prompts, Sized) else None
    return tqdm(total=total, disable=not progress)
