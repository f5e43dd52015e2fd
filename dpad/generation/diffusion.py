"""``diffusion_generate``: Dream's own call, its names and defaults, on dpad's decoder."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dpad.generation import api
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.output import DPadOutput
from dpad.generation.prompts import read_inputs
from dpad.generation.release import released
from dpad.values import flag, whole

# Fields that Dream's configuration class shares with ours.
SHARED = (
    "temperature", "top_p", "top_k", "eps", "steps", "alg", "alg_temp", "num_return_sequences",
    "return_dict_in_generate", "output_history", "mask_token_id", "pad_token_id", "eos_token_id",
    "max_new_tokens",
)  # fmt: skip
DEFAULT_MAX_LENGTH = 20  # of Dream's configuration class; added to the prompt's length


def diffusion_generate(
    model: nn.Module, inputs: Any = None, generation_config: Any = None, **kwargs: Any
) -> Tensor | DPadOutput:
    """Dream's sampler (arXiv 2508.15487) with its own argument names.

    Args:
        model: patched or not, any family that dpad knows.
        inputs: int64 ``[batch, length]``; with ``attention_mask`` padded on either side.
        generation_config: the model's own configuration object, or a `DPadGenerationConfig`.
            Without one, Dream's class defaults hold: 512 steps, alg "origin", temperature 0, no
            top-p, no top-k. What Transformers 4.x made of the same call is
            ``compatible="dream-transformers-4"``.
        kwargs: fields of that configuration, the options of `dpad.generate`, Dream's hooks
            ``generation_tokens_hook_func(step, x, logits)`` and
            ``generation_logits_hook_func(step, x, logits)``, or Fast-dLLM's ``threshold``,
            ``block_length``, ``use_cache`` and ``dual_cache``; a block length selects its decoder
            in blocks.

    Returns:
        int64 ``[batch, length + new]``, or a `DPadOutput` (sequences, history).

    Raises:
        TypeError, ValueError: as `dpad.generate`, before any work.
    """
    with released(kwargs.pop("streamer", None)) as streamer:
        if isinstance(generation_config, Mapping):
            raise TypeError("generation_config is a dict: pass its options by name")
        prompt = (inputs, kwargs.pop("input_ids", None), kwargs.pop("attention_mask", None))
        pad_id = api.adapter_of(model).pad_id or 0
        ids, mask = read_inputs(*prompt, kwargs.pop("tokenizer", None), pad_id)
        options = _options(generation_config, kwargs, ids.shape[1])
        if isinstance(generation_config, DPadGenerationConfig):
            options["generation_config"] = generation_config
        return api.generate(model, ids, attention_mask=mask, streamer=streamer, **options)


def _options(given: Any, kwargs: dict[str, Any], prompt_columns: int) -> dict[str, Any]:
    """Our options for Dream's."""
    options = {}
    if given is not None and not isinstance(given, DPadGenerationConfig):
        values = {n: getattr(given, n, None) for n in (*SHARED, "max_length", "threshold")}
        options = {n: v for n, v in values.items() if v is not None}
    named = {n: v for n, v in kwargs.items() if v is not None}
    named.pop("bos_token_id", None)  # Dream reads it and does nothing with it
    options.update(named)
    if "max_new_tokens" not in options:
        options.update(_length(options.pop("max_length", None), named, prompt_columns))
    options.pop("max_length", None)
    blocks = "block_length" in options or "block_size" in options
    if getattr(given, "compatible", None) is None:
        options.setdefault("compatible", "fast-dllm-dream" if blocks else "dream")
    if blocks:
        if options.get("alg") == "confidence_threshold":
            options.pop("steps", None)  # a block takes as many as its threshold needs
        cached, dual = (
            flag(n, options.pop(n, off)) for n, off in (("use_cache", True), ("dual_cache", False))
        )
        options.setdefault("cache", ("dual" if dual else "prefix") if cached else "none")
    return options


def _length(max_length: Any, named: dict[str, Any], prompt_columns: int) -> dict[str, int]:
    """max_new_tokens from Dream's max_length, which counts the prompt's columns."""
    if max_length is None or (max_length == DEFAULT_MAX_LENGTH and "max_length" not in named):
        return {}
    new = whole(1)("max_length", max_length) - prompt_columns
    if new < 1:
        raise ValueError(
            f"max_length = {max_length} leaves no room behind a prompt of {prompt_columns} "
            "columns: pass max_new_tokens="
        )
    return {"max_new_tokens": new}
