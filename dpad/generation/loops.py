"""A decoding loop of the caller's in place of dpad's: ``generate(custom_generate=<callable>)``."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, StoppingCriteriaList

from dpad.generation.config import ALIASES, FIELDS, DPadGenerationConfig
from dpad.generation.processing import per_row


def check_loop(loop: Any) -> set[str]:
    """Names that the loop's signature holds.

    Raises:
        TypeError: not a callable; a string too, for dpad loads no code.
    """
    if not callable(loop):
        raise TypeError(
            f"custom_generate = {loop!r}: expected a callable; load a repository's with "
            "transformers.GenerationMixin.load_custom_generate and pass the function"
        )
    return set(inspect.signature(loop).parameters)


def loop_options(loop: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Takes out of `options` what only the loop knows, and returns it."""
    known = check_loop(loop) - {*FIELDS, *ALIASES}
    return {n: options.pop(n) for n in list(options) if n in known}


def run_loop(
    loop: Callable[..., Any],
    model: nn.Module,
    ids: Tensor,
    mask: Tensor | None,
    config: DPadGenerationConfig,
    arguments: dict[str, Any],
) -> Any:
    """Calls the loop as Transformers does, and returns what it returns.

    That is ``loop(model, input_ids, logits_processor=, stopping_criteria=, generation_config=,
    attention_mask=, ...)`` without gradients: the processors and criteria as lists, the
    configuration in force, the mask int64 or absent.

    Args:
        arguments: name -> value of the other arguments of `generate`; None is not given.

    Raises:
        ValueError: an argument that the loop's signature does not name: it would do nothing; or
            stopping criteria per row, which Transformers has not.
    """
    arguments = {n: v for n, v in arguments.items() if v is not None}
    if per_row(arguments.get("stopping_criteria")):
        raise ValueError(
            "stopping_criteria holds one list per row, custom_generate takes one list for all"
        )
    prepared = {
        "logits_processor": LogitsProcessorList(arguments.pop("logits_processor", ())),
        "stopping_criteria": StoppingCriteriaList(arguments.pop("stopping_criteria", ())),
        "generation_config": config,
    }
    if mask is not None:
        prepared["attention_mask"] = mask.to(torch.int64)
    for name in sorted(set(arguments) - check_loop(loop)):
        raise ValueError(f"{name} is given, and custom_generate does not take it")
    with torch.no_grad():
        return loop(model, ids, **prepared, **arguments)
