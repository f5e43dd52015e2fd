"""Checks of one call of `generate` that need model, configuration and batch together."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dpad import ops
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.fields import COUNTED_ALGS, DRAWN_ALGS
from dpad.models.adapter import Adapter
from dpad.models.linear_layers import own_forward
from dpad.values import about


def on_the_model(model: nn.Module) -> list[str]:
    """What stands on the model itself and runs when that is called, which decoding does not; in
    words, for a refusal or a report.
    """
    handle: Any = model.__dict__.get("_dpad_handle")

    def behind(entry: object) -> object:
        """dpad's own entry stands for what the instance had before."""
        ours = getattr(entry, "handle", None)
        return ours.stock_entry("forward") if ours is not None and ours is handle else entry

    name, found = f"the {type(model).__name__} itself", []
    if model._forward_hooks or model._forward_pre_hooks:
        found.append(f"hooks on {name}")
    if not own_forward(model, behind):
        found.append(f"a replaced forward of {name}")
    return found


def refuse_unserved(adapter: Adapter) -> None:
    """Raises UnsupportedModelError with the names of all that decoding would skip."""
    adapter.refuse_unserved(on_the_model(adapter.model))


def check_attention(adapter: Adapter, config: DPadGenerationConfig, wanted: str | None) -> None:
    """Refuses what the attention of the model cannot do.

    `wanted` is the attention that the compatible mode is for, or None.

    Raises ValueError with the name and the value.
    """
    kind, causal = adapter.attention, adapter.attention == "block-causal"
    has = f"{adapter.family} has {kind} attention"
    if wanted is not None and wanted != kind:
        raise about("compatible")(
            f"compatible = {config.compatible!r} is for {wanted} attention: {has}"
        )
    block, part = config.block_length, config.sub_block_length
    if not causal:
        if part is not None:
            raise about("sub_block_length")(
                f"sub_block_length = {part}: {has}, whose blocks are decoded whole"
            )
        return
    if config.suffix.kind != "none":
        raise about("suffix")(f"suffix = {config.suffix}: {has} and sees nothing behind a block")
    if config.refresh == "recent":
        raise about("refresh")(
            f"refresh = 'recent': {has}, whose older K/V are exact and stay anyway"
        )
    if config.alg == "confidence_threshold":
        raise about("alg")(f"alg = {config.alg!r}: {has}, take 'low_confidence_dynamic'")
    if part is not None and block % part:
        raise about("sub_block_length", "block_length")(
            f"sub_block_length = {part} does not divide block_length = {block}"
        )
    if part is not None and config.steps is not None:
        raise about("sub_block_length", "steps")(
            f"sub_block_length = {part} and steps = {config.steps}: steps are a block's"
        )


def check_behind(adapter: Adapter, supplied: Mapping[str, Any], hooks: Mapping[str, Any]) -> None:
    """Refuses what a caller supplies for a suffix that the model does not see.

    `supplied` and `hooks` are the caller's own, name -> function or None.

    Raises ValueError with the name.
    """
    if adapter.attention == "full":
        return
    given = {"kept_suffix": supplied["kept_suffix"]}
    given |= {f"generation_{name}_hook_func": hook for name, hook in hooks.items()}
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} is given: {adapter.family} has {adapter.attention} attention and sees "
                "nothing behind a block"
            )


def mask_id_of(adapter: Adapter, given: int | None) -> int:
    """The mask id in force: `given`, else the model's; ValueError for none or one it has not."""
    mask_id = adapter.mask_id if given is None else given
    if mask_id is None:
        raise about("mask_token_id")(
            "the model does not name its mask token: pass mask_token_id= (the id of "
            "'<|mdm_mask|>' or '[MASK]' in its tokenizer)"
        )
    _check_id(adapter, "mask_token_id", mask_id)
    return mask_id


def _check_id(adapter: Adapter, name: str, value: int) -> None:
    if not 0 <= value < adapter.vocab_size:
        raise about(name)(f"{name} = {value}: the vocabulary has {adapter.vocab_size} ids")


def token_ids(adapter: Adapter, config: DPadGenerationConfig) -> tuple[int, tuple[int, ...], int]:
    """(mask id, end ids, pad id) in force: the configuration's, else the model's.

    Raises:
        ValueError: no mask id, an id outside the vocabulary, a mask that ends the text, or
            `early_stop` without an end id.
    """
    mask_id = mask_id_of(adapter, config.mask_token_id)
    end_ids = _ids(config.eos_token_id) or tuple(adapter.end_ids)
    pad_id = adapter.pad_id if config.pad_token_id is None else config.pad_token_id
    if pad_id is None:
        pad_id = (end_ids or (0,))[0]
    for name, value in [("pad_token_id", pad_id), *(("eos_token_id", i) for i in end_ids)]:
        _check_id(adapter, name, value)
    if mask_id in end_ids:
        raise about("mask_token_id", "eos_token_id")(
            f"mask_token_id = {mask_id} is also an eos_token_id"
        )
    if config.early_stop and not end_ids:
        raise about("early_stop", "eos_token_id")(
            "early_stop is on and the model does not name an end id: pass eos_token_id= or "
            "early_stop=False"
        )
    return mask_id, end_ids, pad_id


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def row_keys(given: list[int] | None, rows: int) -> list[int]:
    """What the draws of each row are keyed by: given, or its number.

    Raises ValueError for another count.
    """
    if given is None:
        return list(range(rows))
    if len(given) != rows:
        raise about("row_keys")(f"row_keys holds {len(given)} keys for {rows} rows")
    return list(given)


def check_steps(config: DPadGenerationConfig, blocks: Sequence[int]) -> None:
    """Whether the steps suffice for the blocks of a row; `blocks`: their lengths.

    Raises ValueError, naming the argument that is missing or too small.
    """
    steps = config.steps
    needs = {"origin": "steps", **dict.fromkeys(COUNTED_ALGS, "confidence_threshold")}
    needed = needs.get(config.alg)
    if needed and getattr(config, needed) is None:
        raise about("alg", needed)(f"alg = {config.alg!r} needs {needed}=")
    if steps is None:
        return
    if steps < len(blocks):
        of = "a text's gaps" if config.infill else f"max_new_tokens = {config.max_new_tokens}"
        raise about("steps", "max_new_tokens", "block_length")(
            f"steps = {steps} is less than the {len(blocks)} blocks of {of} and block_length = "
            f"{config.block_length}: every block needs a step"
        )
    if config.alg == "confidence_threshold":
        each = ops.transfer_schedule(steps, len(blocks)).tolist()
        for masks, n in zip(blocks, each, strict=True):
            if masks % n:
                raise about("steps", "alg")(
                    f"steps = {steps}: the {masks} masks of a block are not a multiple of its "
                    f"{n} steps, as alg = 'confidence_threshold' needs"
                )


def check_refine(adapter: Adapter, config: DPadGenerationConfig, hooks: Mapping[str, Any]) -> None:
    """What refining a draft needs of the model and the call; ValueError by name and value.

    `hooks`: Dream's, name -> function or None.
    """
    how = config.refine
    if how is None or not how.ratio:
        return
    named = f"refine = {how!r}"
    given = [n for n, hook in hooks.items() if hook is not None]
    if given:
        raise about("refine")(f"{named} and generation_{given[0]}_hook_func: the hook masks itself")
    if adapter.attention == "full":
        return
    has = f"{adapter.family} has {adapter.attention} attention"
    if how.block_length is not None or how.select_by == "posthoc":
        raise about("refine")(
            f"{named}: {has} and is refined in its own blocks, by snapshot or random"
        )
    if config.sub_block_length is not None:
        raise about("refine", "sub_block_length")(
            f"{named} and sub_block_length = {config.sub_block_length}"
        )
    warnings.warn(f"{named}: {has} and was not trained to see what is kept behind", stacklevel=2)


def check_edit(config: DPadGenerationConfig, hooks: Mapping[str, Any]) -> None:
    """What editing needs of the call; ValueError by name and value. `hooks`: Dream's."""
    given = [n for n, hook in hooks.items() if hook is not None]
    if config.edit is not None and given:
        raise about("edit")(
            f"edit = {config.edit!r} and generation_{given[0]}_hook_func: the hook edits itself"
        )


def check_drawn(
    adapter: Adapter, config: DPadGenerationConfig, kept_quirks: Mapping[str, Any]
) -> None:
    """What `alg` and `remask` need where each token is drawn; ValueError by name and value."""
    if kept_quirks.get("draws") and config.alg not in DRAWN_ALGS:
        raise about("alg", "compatible")(
            f"alg = {config.alg!r} and compatible = {config.compatible!r}: it is for "
            f"{' and '.join(DRAWN_ALGS)}"
        )
    if kept_quirks.get("forgets") and adapter.max_positions % config.block_length:
        raise about("block_length", "compatible")(
            f"block_length = {config.block_length}: compatible = {config.compatible!r} needs one "
            f"that divides the model's {adapter.max_positions} positions"
        )
    if config.remask is None and config.alg not in DRAWN_ALGS:
        return
    name = "alg" if config.remask is None else "remask"
    named = f"{name} = {getattr(config, name)!r}"
    if not config.temperature:
        raise about(name, "temperature")(
            f"{named} and temperature = 0: it draws tokens, give temperature=1.0"
        )
    if config.sub_block_length is not None:
        raise about(name, "sub_block_length")(
            f"{named} and sub_block_length = {config.sub_block_length}: its times are a block's"
        )


def leaves_all(config: DPadGenerationConfig) -> bool:
    """Whether first hitting has fewer steps than a block has masks, and a cache that such a block
    is not saved in (BD3-LM's program).
    """
    if config.alg != "first_hitting" or config.steps is None or config.cache == "none":
        return False
    return config.steps < -(-config.max_new_tokens // config.block_length) * config.block_length


def check_left(config: DPadGenerationConfig, prompts: Sequence[Tensor]) -> None:
    """Refuses steps that leave masks in some blocks and not in all; ValueError with the values."""
    if not leaves_all(config):
        return
    block, blocks = config.block_length, -(-config.max_new_tokens // config.block_length)
    each, longest = config.steps // blocks, max(map(len, prompts))
    if config.steps % blocks or each + longest >= block:
        raise about("steps", "block_length")(
            f"steps = {config.steps} with {blocks} blocks of {block} and a prompt of {longest}: "
            "with a cache these must be equally many in each block, and leave masks in all or none"
        )


def check_supplied_order(config: DPadGenerationConfig, confidences: object) -> None:
    """Raises ValueError where scores are supplied for a rule that makes its own of them."""
    if confidences is None:
        return
    if config.commit is not None:
        raise about("confidences", "commit")(
            f"confidences is given and commit = {config.commit!r}: the rule ranks scores of its own"
        )
    if config.remask is not None or config.alg == "ancestral":
        name = "alg" if config.remask is None else "remask"
        named = f"{name} = {getattr(config, name)!r}"
        raise about("confidences", name)(f"confidences is given and {named}: it ranks nothing")


def check_refresh(config: DPadGenerationConfig) -> None:
    """Raises ValueError for a way to refresh that the cache, or its lack, makes meaningless."""
    if config.refresh == "recent" and config.cache == "none":
        raise about("refresh", "cache")(
            "refresh = 'recent' and cache = 'none': without a cache every pass computes everything"
        )
    for name in ("refresh_period", "look_back"):
        value = getattr(config, name)
        if value is not None and config.refresh != "recent":
            raise about(name, "refresh")(
                f"{name} = {value} goes with refresh = 'recent': a full refresh comes with every "
                "block otherwise"
            )


def check_length(
    adapter: Adapter,
    config: DPadGenerationConfig,
    kept_quirks: Mapping[str, Any],
    end_ids: Sequence[int],
) -> None:
    """Refuses options that a length which is not known has no meaning for.

    Raises ValueError with the names and the values.
    """
    how = config.length
    if how is None:
        return
    if adapter.attention != "full":
        raise about("length")(
            f"length = {how}: {adapter.family} has {adapter.attention} attention and sees nothing "
            "behind a block, where the end of a text is looked for"
        )
    if not end_ids:
        raise about("length", "eos_token_id")(
            f"length = {how} and the model does not name an end id: pass eos_token_id"
        )
    if config.compatible and not kept_quirks.get("cut_initial"):
        raise about("length", "compatible")(
            f"length = {how} and compatible = {config.compatible!r}: that program's answers have "
            "one length"
        )
    cut = config.infill or kept_quirks.get("cut_initial")  # a text with gaps has its own masks
    if how.initial_length > config.max_new_tokens and not cut:
        raise about("length", "max_new_tokens")(
            f"length: initial_length = {how.initial_length} is more than max_new_tokens = "
            f"{config.max_new_tokens}, which is the greatest length"
        )
    broken = {"steps": config.steps is None, "output_history": not config.output_history}
    for name in (n for n, good in broken.items() if not good):
        raise about(name, "length")(
            f"{name} = {getattr(config, name)!r} and length = {how}: it needs a canvas whose "
            "length is known"
        )


def check_growth(config: DPadGenerationConfig, supplied: Mapping[str, Any]) -> None:
    """Refuses what a caller supplies for positions that move; ValueError with the name."""
    if config.length is not None and supplied["kept_suffix"] is not None:
        raise about("kept_suffix", "length")(
            f"kept_suffix is given and length = {config.length}: positions move"
        )


def check_hooks(hooks: Mapping[str, Any], config: DPadGenerationConfig, rows: int) -> None:
    """Dream's hooks (name -> function or None) see every position of every row in every step.

    Raises:
        ValueError: a setting that computes less, by name and value.
        TypeError: a hook that cannot be called.
    """
    given = {f"generation_{n}_hook_func": hook for n, hook in hooks.items() if hook is not None}
    whole = {
        "cache": config.cache == "none",
        "suffix": config.suffix.kind == "all",
        "cfg_scale": not config.cfg_scale,
        "length": config.length is None,
        "batch_invariant": not config.batch_invariant,
        "micro_batch": (config.micro_batch or rows) >= rows,
    }
    broken = [n for n, good in whole.items() if not good]
    if given and broken:
        raise ValueError(
            f"{next(iter(given))} and {broken[0]} = {getattr(config, broken[0])!r}: the hook sees "
            "the whole canvas, all of which must be computed together"
        )
    for name, hook in given.items():
        if not callable(hook):
            raise TypeError(f"{name} = {hook!r} is not callable")
