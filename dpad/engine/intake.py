"""What is handed in, checked: the options of requests, and one prompt each."""

from collections.abc import Mapping
from typing import Any

import torch

from dpad.engine.events import STREAMS
from dpad.generation.api import merge
from dpad.generation.conventions import Conventions
from dpad.generation.inputs import split_prompts
from dpad.generation.job import Job
from dpad.generation.prompts import read_inputs
from dpad.generation.recipe import Recipe
from dpad.models.adapter import Adapter
from dpad.values import about, number, optional

# What a single request cannot ask for, or what the engine decides.
REFUSED = ("micro_batch", "num_return_sequences", "row_keys")


def check_request(stream: Any, priority: Any, timeout: Any) -> tuple[float, float | None]:
    """`priority` and `timeout` in plain Python; ValueError for what no request can have, by name
    and value.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream = {stream!r}: expected None, 'blocks' or 'drafts'")
    return number("priority", priority), optional(number)("timeout", timeout)


def recipe_of(
    model: torch.nn.Module, adapter: Adapter, given: Any, options: Mapping[str, Any]
) -> Recipe:
    """The `Recipe` of requests with these options over the configuration `given`.

    Raises:
        TypeError, ValueError: a bad option, by name and value.
        UnsupportedModelError: the model has hooks that dpad's forward does not run.
    """
    for name in REFUSED:
        if name in options:
            raise about(name)(f"{name} = {options[name]!r}: a request is one row of its own")
    handle = getattr(model, "_dpad_handle", None)
    config = merge(model, handle and handle.config, given, options, adapter)
    if config.num_return_sequences > 1:
        raise about("num_return_sequences")(
            f"num_return_sequences = {config.num_return_sequences}: submit the prompt as often"
        )
    return Recipe(adapter, config)


def job_of(
    adapter: Adapter,
    recipe: Recipe,
    ids: Any,
    supplied: dict[str, Any],
    conventions: Conventions,
    draws: tuple[int | None, list[int]],
) -> Job:
    """The call of `generate` that one prompt alone would be; `draws` are its seed and row keys.

    Raises ValueError for anything but ids of one prompt that the model can decode.
    """
    if ids is None:
        raise about("input_ids")("ids = None: expected the prompt's token ids")
    ids, mask = read_inputs(ids, None, None)
    if ids.shape[0] != 1:
        raise about("input_ids")(f"ids has {ids.shape[0]} rows: a request is one prompt")
    prompts, given = split_prompts(ids, mask), (ids, mask)
    return Job(adapter, recipe, prompts, supplied, conventions, {}, given, *draws)
