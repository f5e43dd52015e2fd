"""`Engine.map`: an iterable of prompts, decoded as there is room for them."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

from dpad.engine.intake import recipe_of
from dpad.generation.output import DPadOutput

if TYPE_CHECKING:
    from dpad.engine.engine import Engine
    from dpad.engine.request import Request
    from dpad.generation.recipe import Recipe


def mapped(
    engine: Engine, prompts: Iterable[Any], progress: bool, options: dict[str, Any]
) -> Iterator[DPadOutput]:
    """See `Engine.map`; `options` are arguments of `submit`."""
    waiting: deque[Request] = deque()
    parameters = set(inspect.signature(engine.submit).parameters)
    own = parameters - {"options", "generation_config"}  # a request's; others are configuration
    shared: Recipe | None = None
    with _bar(progress, prompts) as bar:
        for number, prompt in enumerate(prompts):
            given = prompt if isinstance(prompt, dict) else {"ids": prompt}
            while len(waiting) >= 2 * engine.max_sequences or engine.full:
                yield _next(waiting, bar)
            request = {"row_key": number, **options, **given}
            if given.keys() <= own:  # its configuration is everybody's, checked once
                shared = shared or _shared(engine, options, own)
                request = {n: v for n, v in request.items() if n in own}
                request["generation_config"] = shared
            waiting.append(engine.submit(**request))
        while waiting:
            yield _next(waiting, bar)


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
