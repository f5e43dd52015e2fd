"""`generate`, and the configuration in force."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, overload

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from dpad.decode.workspace import Workspace
from dpad.generation import presets
from dpad.generation.checks import token_ids
from dpad.generation.compat import quirks
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.conventions import Conventions
from dpad.generation.fields import COUNTED_ALGS, QUOTA_ALGS, RULES
from dpad.generation.inputs import split_prompts
from dpad.generation.job import Job
from dpad.generation.loops import loop_options, run_loop
from dpad.generation.names import resolve_names, set_options
from dpad.generation.output import DPadOutput
from dpad.generation.progress import Progress, check_progress
from dpad.generation.prompts import read_inputs
from dpad.generation.recipe import Recipe
from dpad.generation.release import released
from dpad.generation.stored import stored_options
from dpad.models.adapter import Adapter, find_adapter


@overload
def generate(
    model: torch.nn.Module,
    inputs: Any = None,
    *,
    return_dict_in_generate: Literal[True],
    **options: Any,
) -> DPadOutput: ...


@overload
def generate(
    model: torch.nn.Module, inputs: Any = None, **options: Any
) -> torch.Tensor | DPadOutput: ...


def generate(
    model: torch.nn.Module,
    inputs: Any = None,
    *,
    input_ids: Any = None,
    attention_mask: Any = None,
    generation_config: GenerationConfig | None = None,
    tokenizer: Any = None,
    streamer: BaseStreamer | None = None,
    kept_suffix: Any = None,
    noise: Callable[..., Any] | None = None,
    confidences: Callable[..., Any] | None = None,
    reward: Any = None,
    generation_tokens_hook_func: Callable[..., Any] | None = None,
    generation_logits_hook_func: Callable[..., Any] | None = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    callback_on_step_end: Callable[..., Any] | None = None,
    callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
    callback_on_step_end_tensor_outputs: Sequence[str] | None = None,
    custom_generate: Callable[..., Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> torch.Tensor | DPadOutput:
    """Decodes with a masked-diffusion model, patched or not.

    Args:
        model: a LLaDA in the released remote code or in `dpad.models.hf`; it is not changed.
        inputs: prompt ids ``[batch, length]`` (tensor or lists) or a mapping that holds them; or
            pass `input_ids`. Rows may be padded on the left or the right by `attention_mask`; lists
            of different lengths are padded here, on the left. With a `tokenizer` also texts, which
            it reads as they are: no chat template.
        generation_config: `DPadGenerationConfig`, or Transformers' own, of which what was set
            holds; `options` override its fields. What neither gives is the default of the model's
            variant (`dpad.presets`).
        streamer: a Transformers streamer; gets the prompt and each finished block, and drafts if it
            has `put_draft` (`dpad.generation.streaming`); its `end` is called on every way out.
            Batch 1.
        kept_suffix: kept suffix positions to use instead of drawing: per block, or per row and
            block, or a function (row, block).
        noise: float64 Gumbel noise to use instead of drawing: a function
            (rows, positions, vocab) -> ``[logit rows, vocab]``.
        confidences: float64 scores for the commit rule to rank: a function (rows, positions,
            eligible) -> ``[logit rows]``; replaces the draws of random remasking.
        reward: a `dpad.Reward`, or its function, for ``alg="ancestral"``: samples towards it.
        generation_tokens_hook_func, generation_logits_hook_func: Dream's hooks (step, x, logits) on
            the whole canvas, see `dpad.generation.hooks`; exact modes only.
        logits_processor: list of Transformers' processors. Each sees one position at a time: the
            row's tokens before it, and its logits (`dpad.generation.processing.Processors`).
        stopping_criteria: list of Transformers' criteria, asked about each token of a finished
            block (`dpad.generation.processing.Criteria`); or one such list per row.
        callback_on_step_end: a function (model, step, timestep, tensors), called after each step
            (`dpad.generation.callback.StepCallback`). It gets the tensors named in
            `callback_on_step_end_tensor_inputs` ("block", "confidence", "transfer_index",
            "kept_suffix"; default "block") and may change those named in
            `callback_on_step_end_tensor_outputs` ("block"; default none).
        custom_generate: a decoding loop to run in place of dpad's, called as Transformers calls
            one (`dpad.generation.loops.run_loop`); options that its signature names are its own.
        progress: show a bar that counts the tokens of finished blocks (tqdm.auto).

    Returns:
        int64 ``[batch, length + max_new_tokens]``, or a `DPadOutput` with
        ``return_dict_in_generate`` or ``trace``.

    Raises:
        TypeError, ValueError: a bad argument, by name and value, before any work.
        UnsupportedModelError: not a model that dpad knows.
        MemoryError: the K/V cache does not fit, with the bytes.
        NaNLogitsError: NaN logits; the message says whether the model or the logits processors gave
            them.
    """
    consumers = {
        "logits_processor": logits_processor,
        "stopping_criteria": stopping_criteria,
        "callback_on_step_end": callback_on_step_end,
        "callback_on_step_end_tensor_inputs": callback_on_step_end_tensor_inputs,
        "callback_on_step_end_tensor_outputs": callback_on_step_end_tensor_outputs,
    }
    supplied = {"kept_suffix": kept_suffix, "noise": noise, "confidences": confidences}
    supplied["reward"] = reward
    hooks = {"tokens": generation_tokens_hook_func, "logits": generation_logits_hook_func}
    prompt = (inputs, input_ids, attention_mask, tokenizer)
    with released(streamer) as told:
        conventions = Conventions(
            streamer=told, **consumers, progress=check_progress(progress) or None
        )
        given = (generation_config, options, custom_generate)
        return _call(model, prompt, given, supplied, hooks, conventions)


def _call(
    model: torch.nn.Module,
    prompt: tuple[Any, Any, Any, Any],
    given: tuple[Any, Any, Any],
    supplied: dict[str, Any],
    hooks: dict[str, Any],
    conventions: Conventions,
) -> torch.Tensor | DPadOutput:
    """One call, by the caller's loop or by dpad's; the arguments are those of `generate`."""
    generation_config, options, custom_generate = given
    adapter, handle = adapter_of(model), getattr(model, "_dpad_handle", None)
    base = handle.config if handle is not None else None
    extra = {} if custom_generate is None else loop_options(custom_generate, options)
    config = merge(model, base, generation_config, options, adapter)
    pad_id = token_ids(adapter, config)[2]
    ids, mask = read_inputs(*prompt, pad_id)
    if config.num_return_sequences > 1:
        ids = ids.repeat_interleave(config.num_return_sequences, dim=0)
        if mask is not None:
            mask = mask.repeat_interleave(config.num_return_sequences, dim=0)
    prompts = split_prompts(ids, mask)
    if custom_generate is not None:
        dreams = {f"generation_{name}_hook_func": hook for name, hook in hooks.items()}
        extra.update(supplied, **vars(conventions), **dreams)
        return run_loop(custom_generate, model, ids, mask, config, extra)
    if conventions.progress:
        conventions.progress = partial(Progress, early_stop=bool(config.early_stop))
    recipe = Recipe(adapter, config)
    job = Job(adapter, recipe, prompts, supplied, conventions, hooks, (ids, mask))
    with handle.workspace() if handle is not None else nullcontext(Workspace()) as workspace:
        run = job.run(workspace)
    return job.result(run)


def adapter_of(model: torch.nn.Module) -> Adapter:
    """The decoder's view of a model: its handle's if it is patched, else one for this call."""
    handle = getattr(model, "_dpad_handle", None)
    return find_adapter(model) if handle is None else handle.adapter


def merge(
    model: torch.nn.Module,
    base: Any,
    given: Any,
    options: Mapping[str, Any],
    adapter: Adapter | None = None,
) -> DPadGenerationConfig:
    """The configuration in force.

    Options over `given` over `base` over what the model brings along (`stored_options`) over the
    defaults of its compatible mode and variant. `adapter`: the model's, where it is known.
    """
    if adapter is None:
        adapter = adapter_of(model)
    config = DPadGenerationConfig()
    if type(given) is GenerationConfig:
        given = DPadGenerationConfig(**set_options(given))
    for layer in (base, given):
        if layer is not None and not isinstance(layer, DPadGenerationConfig):
            raise TypeError(
                f"generation_config is a {type(layer).__name__}: expected a DPadGenerationConfig "
                "(or pass its options by name)"
            )
    chosen = {n: v for n, v in resolve_names(options).items() if v is not None}
    for layer in (given, base):
        _fill(chosen, {} if layer is None else layer.given())
    _fill(chosen, stored_options(model))
    kept_quirks = quirks(chosen.get("compatible"))
    _fill(chosen, kept_quirks.get("defaults", {}))
    if kept_quirks.get("whole_canvas"):
        chosen.setdefault("block_length", chosen["max_new_tokens"])
    _fill(chosen, presets.defaults_for(model, adapter))
    config.update(**chosen)
    return config


def _fill(chosen: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Adds the fields of a lower layer; a commit rule that was chosen hides all lower ones."""
    ruled = any(chosen.get(n) is not None for n in RULES)
    fixed = chosen.get("remasking") == "random" or chosen.get("alg") in QUOTA_ALGS
    fixed = fixed or chosen.get("remask") is not None
    for name, value in layer.items():
        if name in RULES and (ruled or (fixed and name != "steps")):
            continue
        counted = name == "alg" and value in COUNTED_ALGS
        if counted and ruled and chosen.get("confidence_threshold") is None:
            continue
        chosen.setdefault(name, value)
