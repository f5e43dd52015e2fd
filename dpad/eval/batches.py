"""Requests of the harness as rows of a batch: settings, stop strings, keys, grouping."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dpad.decode.suffix import Suffix
from dpad.generation import presets
from dpad.generation.config import DPadGenerationConfig

# Options of `generate` that are the evaluation's own.
RESERVED = (
    "micro_batch",
    "num_return_sequences",
    "output_history",
    "return_dict_in_generate",
    "row_keys",
    "trace",
)


def configuration(options: Mapping[str, Any], preset: str | None = None) -> DPadGenerationConfig:
    """`DPadGenerationConfig` of a preset's values under `options`, as ``--model_args`` gives them.

    A suffix may be spelled by its fields: ``suffix=gaussian,suffix_window=64,suffix_near=8``.

    Raises:
        TypeError, ValueError, KeyError: an unknown or bad option, by name.
    """
    options = dict(options)
    refuse_reserved(options)
    parts = {f"suffix_{f.name}": f.name for f in fields(Suffix)}
    suffix = {parts[n]: options.pop(n) for n in list(options) if n in parts}
    if isinstance(options.get("suffix"), str):
        suffix["kind"] = options.pop("suffix")
    if suffix and "suffix" in options:
        raise ValueError(f"suffix = {options['suffix']!r} and {suffix}: give one of them")
    if suffix:
        options["suffix"] = Suffix(**suffix)
    if preset is None:
        return DPadGenerationConfig(**options)
    return presets.get(preset, **options)


def refuse_reserved(options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that the evaluation sets itself, by name and value."""
    for name in sorted(set(options) & set(RESERVED)):
        raise ValueError(f"{name} = {options[name]!r}: the evaluation sets it itself")


def read_settings(gen_kwargs: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(options of `generate`, stop strings) of a request's ``gen_kwargs``.

    ``max_gen_toks`` (or an alias of it) is the length of the canvas; without it that of the model's
    options holds. ``do_sample=False`` is temperature 0, whatever else is said, as everywhere in the
    harness; ``top_p`` and ``top_k`` go with sampling. All else has to be an option of `generate`.

    Raises ValueError for a setting that cannot be honoured.
    """
    values = dict(normalize_gen_kwargs(gen_kwargs, default_max_gen_toks=0))
    until, sampled = values.pop("until"), values.pop("do_sample")
    canvas, temperature = values.pop("max_gen_toks"), values.pop("temperature", 0.0)
    beams = values.pop("num_beams", 1)
    if beams != 1:
        raise ValueError(f"num_beams = {beams!r}: there is no beam search")
    if not all(isinstance(s, str) for s in until if s is not None):
        raise ValueError(f"until = {until!r}: expected strings")
    if sampled and not temperature:
        raise ValueError(f"do_sample = {sampled!r} and no temperature above 0")
    refuse_reserved(values)
    if not sampled:
        values = {n: v for n, v in values.items() if n not in ("top_p", "top_k")}
    if {"do_sample", "temperature"} & set(gen_kwargs):
        values["temperature"] = temperature
    if canvas:
        values["max_new_tokens"] = canvas
    return values, tuple(s for s in until if s)


@dataclass
class Row:
    """A prompt to decode, int64 ids ``[length]`` on the CPU.

    `number` is the request's place; `options` those of `generate`, alike in one batch; `key` what
    its draws are keyed by; `end_ids` and `early_stop` the ones in force.
    """

    number: int
    ids: torch.Tensor
    options: dict[str, Any]
    key: int
    stops: "StopStrings"
    end_ids: Collection[int] = ()
    early_stop: bool = False

    def read(self, answer: Tensor) -> tuple[str, int]:
        """(text, number of tokens) of decoded ids ``[canvas]``, up to the first end or stop."""
        ids = answer.tolist()
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return self.stops.cut(ids[:end])

    def criteria(self) -> list[Callable[..., bool]]:
        """What ends the row in `generate`. Without early stop it is decoded whole, and cut."""
        return [self.stops.criterion(len(self.ids))] if self.early_stop and self.stops else []


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Lists of up to `size` rows with the same options, the longest prompts first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(repr(sorted(row.options.items())), []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: -len(row.ids))
        for first in range(0, len(group), size):
            yield group[first : first + size]


def padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """int64 ids and mask ``[rows, longest prompt]``, padded on the left."""
    ids = [row.ids for row in rows]
    masks = [torch.ones_like(i) for i in ids]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    return pad(ids), pad(masks)


class StopStrings:
    """Where an answer's text, special tokens included, first holds one of the strings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, strings
        # A token adds a byte at least; some more for those that add none.
        self.window = max((len(s.encode()) for s in strings), default=0) + 8

    def __bool__(self) -> bool:
        return bool(self.strings)

    def criterion(self, start: int) -> Callable[..., bool]:
        """A stopping criterion for an answer that begins at column `start`."""

        def stopped(input_ids: Tensor, scores: Tensor, **_: Any) -> bool:
            answer = input_ids[0, start:].tolist()
            return self._found(answer[-self.window :]) and self._found(answer)

        return stopped

    def cut(self, ids: list[int]) -> tuple[str, int]:
        """(text before the first stop, number of tokens that stand wholly before it)."""
        before = len(ids)
        if self._found(ids):
            count = bisect_left(range(before), True, key=lambda n: self._found(ids[:n]))
            ids = ids[:count]
            start = min(found for s in self.strings if (found := self._text(ids).find(s)) >= 0)
            before = count - 1
            while len(self._text(ids[:before])) > start:
                before -= 1
        text = self._text(ids, skip=True)  # a special token that stops is gone
        for string in self.strings:
            text = text.split(string)[0]
        return text, before

    def _found(self, ids: list[int]) -> bool:
        text = self._text(ids)
        return any(s in text for s in self.strings)

    def _text(self, ids: list[int], skip: bool = False) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
