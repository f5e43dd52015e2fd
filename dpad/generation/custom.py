"""`dpad.generate` as a decoding loop behind Transformers' ``generate(custom_generate=...)``."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig

from dpad.generation import api
from dpad.generation.config import ALIASES, FIELDS, MODEL_INPUTS, DPadGenerationConfig
from dpad.generation.output import DPadOutput
from dpad.generation.release import released
from dpad.generation.stored import SHARED, news

# What Transformers prepares for a left-to-right loop: `cache=` is dpad's own.
_LEFT_TO_RIGHT = ("synced_gpus", "use_cache", "cache_position", "logits_to_keep", "position_ids")
_CACHES = ("past_key_values", "cache")


def custom_generate(
    model: torch.nn.Module,
    input_ids: Any = None,
    *,
    inputs: Any = None,
    generation_config: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    **options: Any,
) -> torch.Tensor | DPadOutput:
    """`dpad.generate` for a model that has Transformers' own ``generate`` (`GenerationMixin`).

    Works both ways that Transformers knows: as ``model.generate(ids, custom_generate=
    dpad.custom_generate, block_length=32)``, and as the function ``generate`` in the
    ``custom_generate/generate.py`` of a repository. A patched model needs neither.

    Args:
        model: as `dpad.generate` takes it.
        input_ids, inputs: the prompt, under the name that Transformers gives it.
        generation_config: a `DPadGenerationConfig`, or Transformers' own, of which the length and
            the special tokens hold.
        options: everything else that `dpad.generate` takes; None counts as not given. Transformers
            does not hand `streamer` to a callable, only to a repository's function.

    Returns:
        what `dpad.generate` returns.

    Raises:
        ValueError: `past_key_values` that hold something; otherwise as `dpad.generate`.
    """
    options = {n: v for n, v in options.items() if v is not None and n not in _LEFT_TO_RIGHT}
    with released(options.pop("streamer", None)) as streamer:
        options.update(_prepared(generation_config, input_ids, options))
        return api.generate(
            model,
            inputs,
            input_ids=input_ids,
            generation_config=_own(model, generation_config),
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            streamer=streamer,
            **options,
        )


def _prepared(generation_config: Any, input_ids: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What Transformers has settled; its empty caches leave `options`, ValueError for full ones."""
    for name in _CACHES:
        if hasattr(options.get(name), "get_seq_length"):
            length = options.pop(name).get_seq_length()
            if length:
                raise ValueError(
                    f"{name} holds {length} positions: dpad computes the prompt itself"
                )
    # Transformers has prepared the call: its length is settled.
    if hasattr(generation_config, "_eos_token_tensor"):
        return {"max_new_tokens": generation_config.max_length - input_ids.shape[1]}
    return {}


def _own(model: torch.nn.Module, config: Any) -> DPadGenerationConfig | None:
    """The `DPadGenerationConfig` of what was chosen in a configuration, whoever's it is."""
    if config is None:
        return None
    if not isinstance(config, GenerationConfig):
        raise TypeError(
            f"generation_config is a {type(config).__name__}: expected a DPadGenerationConfig"
        )
    if isinstance(config, DPadGenerationConfig):
        chosen = config.given()
    else:
        chosen = {n: getattr(config, n, None) for n in SHARED}
    return DPadGenerationConfig(**news(model, chosen))  # Transformers may have copied tokens


def _named(function: Callable[..., Any]) -> inspect.Signature:
    """Its signature with every option by name: Transformers passes on what it finds there.

    Except the length and the model's inputs, which it prepares itself.
    """
    own = inspect.signature(function).parameters
    loop = inspect.signature(api.generate).parameters.values()
    names = [p.name for p in loop if p.kind is p.KEYWORD_ONLY] + [*FIELDS, *ALIASES]
    prepared = {*own, *MODEL_INPUTS, "max_new_tokens", "gen_length", "custom_generate"}
    more = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None)
        for n in dict.fromkeys(names)
        if n not in prepared
    ]
    fixed = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
    return inspect.Signature([*fixed, *more, own["options"]])


custom_generate.__signature__ = _named(custom_generate)  # type: ignore[attr-defined]
