"""Prompts as users pass them: tensor, lists, BatchEncoding; padded left or right, or not at all."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from dpad.values import about, refuse, shown

_OURS = ("dpad", "torch")


def read_inputs(
    inputs: Any,
    input_ids: Any,
    attention_mask: Any,
    tokenizer: Any = None,
    pad_id: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``input_ids`` int64 ``[batch, length]`` and mask bool or None, from any accepted form.

    Prompts are a tensor or lists of ids, a mapping that holds them, or texts for the `tokenizer`.
    Lists of different lengths are padded on the left with `pad_id`, and a warning is given of rows
    that look padded with it and have no mask. With None nothing is warned of.

    Raises:
        ValueError: both or neither of inputs and input_ids, a bad shape or dtype, or texts without
            a tokenizer or that it refuses.
    """
    if tokenizer is not None and not callable(tokenizer):
        raise TypeError(f"tokenizer is a {type(tokenizer).__name__}: expected a tokenizer")
    if isinstance(inputs, Mapping) or (
        hasattr(inputs, "keys") and not isinstance(inputs, torch.Tensor)
    ):
        extra = set(inputs.keys()) - {"input_ids", "attention_mask", "token_type_ids"}
        if extra or "input_ids" not in inputs:
            found = sorted(map(str, inputs.keys()))
            raise ValueError(f"inputs holds {found}: expected input_ids, attention_mask")
        if attention_mask is None and "attention_mask" in inputs:
            attention_mask = inputs["attention_mask"]
        inputs = inputs["input_ids"]
    if (inputs is None) == (input_ids is None):
        raise about("input_ids")("give the prompt once: as the first argument or as input_ids")
    given = _ids_of_texts(inputs if inputs is not None else input_ids, tokenizer)
    if _ragged(given):
        return _padded(given, attention_mask, pad_id)
    ids = _tensor("input_ids", given).to(torch.int64)
    if ids.shape[0] == 0:
        raise about("input_ids")("input_ids has no rows: expected at least one prompt")
    if attention_mask is None:
        if pad_id is not None:
            _warn_of_padding(ids, pad_id)
        return ids, None
    mask = _tensor("attention_mask", attention_mask, integer=False)
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {list(mask.shape)}, input_ids {list(ids.shape)}"
        )
    if ((mask != 0) & (mask != 1)).any():
        raise ValueError("attention_mask holds values other than 0 and 1")
    return ids, mask.bool()


def _tensor(name: str, value: Any, integer: bool = True) -> Tensor:
    if isinstance(value, torch.Tensor):
        out = value
    else:
        try:
            rows = isinstance(value, (list, tuple)) and any(hasattr(v, "ndim") for v in value)
            out = torch.stack([_array(v) for v in value]) if rows else _array(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise about(name)(f"{name} = {shown(value)}: expected token ids ({error})") from error
    if out.device.type == "meta":
        raise about(name)(
            f"{name} = {shown(value)}: expected token ids; on the meta device there are no values"
        )
    if out.dim() == 1:
        out = out[None]
    if out.dim() != 2:
        raise about(name)(f"{name} has shape {list(out.shape)}: expected [batch, length]")
    if integer and not is_integer(out.dtype):
        if out.numel():
            raise about(name)(f"{name} has dtype {out.dtype}: expected integer ids")
        out = out.to(torch.int64)
    return out


def _array(value: Any) -> Tensor:
    """A tensor of an array or list; arrays may be read-only, reversed or in any byte order."""
    if hasattr(value, "__array_interface__"):  # NumPy's own: torch takes neither of these as it is
        value = value.astype(value.dtype.newbyteorder("="), order="C")
    return torch.as_tensor(value)


def is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _ids_of_texts(given: Any, tokenizer: Any) -> Any:
    """Lists of ids of a text or a list of texts; anything else as it is."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, (list, tuple)) or not texts:
        return given
    if isinstance(texts[0], Mapping):
        raise about("input_ids")(
            f"input_ids = {shown(given)}: expected token ids; of messages, "
            "tokenizer.apply_chat_template(messages, add_generation_prompt=True) gives them"
        )
    if not any(isinstance(t, str) for t in texts):
        return given
    if not all(isinstance(t, str) for t in texts):
        refuse("input_ids", given, "texts or token ids, not both")
    if tokenizer is None:
        raise about("input_ids")(
            f"input_ids = {shown(given)}: expected token ids; pass tokenizer= to have texts read"
        )
    try:
        return tokenizer(list(texts))["input_ids"]
    except Exception as error:  # the Rust tokenizers raise the bare class
        raise about("input_ids")(f"the tokenizer refuses {shown(given)}: {error}") from error


def _ragged(given: Any) -> bool:
    """Whether these are rows (lists, arrays, tensors) of different lengths."""
    if not isinstance(given, (list, tuple)) or not given:
        return False
    rows = [hasattr(row, "__len__") and getattr(row, "ndim", 1) == 1 for row in given]
    return all(rows) and len({len(row) for row in given}) > 1


def _padded(rows: Sequence[Any], masks: Any, pad_id: int | None) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as ids and mask, padded on the left."""
    texts = [_tensor(f"input_ids[{i}]", row).to(torch.int64)[0] for i, row in enumerate(rows)]
    empty = next((i for i, text in enumerate(texts) if not len(text)), None)
    if empty is not None:
        raise about("input_ids")(f"input_ids: row {empty} is empty, beside rows that are not")
    if masks is not None:
        sizes = [len(mask) for mask in masks]
        if sizes != [len(text) for text in texts]:
            raise ValueError(
                f"attention_mask has rows of {sizes}, input_ids of {list(map(len, texts))}"
            )
        if any(int(value) != 1 for mask in masks for value in mask):
            raise ValueError("attention_mask of rows of different lengths: expected ones only")
    width = max(map(len, texts))
    ids = torch.full((len(texts), width), pad_id or 0, dtype=torch.int64, device=texts[0].device)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, width - len(text) :] = text
        mask[row, width - len(text) :] = True
    return ids, mask


def _level_of_the_caller() -> int:
    """Stack level of the first frame that is neither dpad's nor torch's, for whoever calls this."""
    frame: FrameType | None
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    return level


def _warn_of_padding(ids: Tensor, pad_id: int) -> None:
    """Warns, as Transformers does, where rows look padded and no mask says so.

    One such id at an end may belong to the text (Dream begins texts with it); several, or more in
    one row than in another, do not.
    """
    if not (ids[:, :: max(1, ids.shape[1] - 1)] == pad_id).any():
        return
    pads = (ids == pad_id).long()
    runs = [side.cumprod(-1).sum(-1) for side in (pads, pads.flip(-1))]
    for run, side in zip(runs, ("begins", "ends"), strict=True):
        row = int(run.argmax())
        if int(run[row]) > 1 or (run != run[0]).any():
            warnings.warn(
                f"input_ids: row {row} {side} with {int(run[row])} of the padding id {pad_id} and "
                "there is no attention_mask: they are decoded as text. Pass attention_mask=.",
                stacklevel=_level_of_the_caller(),
            )
            return
