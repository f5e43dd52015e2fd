"""How the harness's likelihood requests are answered: Monte-Carlo bounds and greedy fills."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

import dpad
from dpad.decode.suffix import Suffix
from dpad.eval.batches import Row, StopStrings, batches
from dpad.generation.checks import mask_id_of
from dpad.generation.likelihood import checked_texts
from dpad.models.adapter import Adapter

if TYPE_CHECKING:
    from dpad.eval.harness import DPadLM

# Pairs of one call of `loglikelihood`: between calls the bar moves and the cache is written.
PAIRS = 32
Pair = tuple[Sequence[int], Sequence[int]]  # prompt ids, answer ids


def bounds(lm: "DPadLM", pairs: Sequence[Pair]) -> Iterator[tuple[float, float, int]]:
    """(value, standard error, canvases) of each (prompt ids, answer ids), one after the other.

    All pairs are checked now; they are scored when they are asked for.

    Raises TypeError or ValueError, naming ``pairs[place of the request]``.
    """
    checked_texts(pairs, lm.adapter, mask_id_of(lm.adapter, lm.settings.mask_token_id))
    return _scored(lm, pairs)


def _scored(lm: "DPadLM", pairs: Sequence[Pair]) -> Iterator[tuple[float, float, int]]:
    for first in range(0, len(pairs), PAIRS):
        part = pairs[first : first + PAIRS]
        found = dpad.loglikelihood(
            lm.model,
            part,
            samples=lm.mc_samples,
            cfg_scale=lm.settings.cfg_scale,
            seed=lm.seed,
            micro_batch=lm.batch_size,
            mask_token_id=lm.settings.mask_token_id,
        )
        columns = (found.value, found.standard_error, found.canvases)
        yield from zip(*(column.tolist() for column in columns), strict=True)


def _one_by_one(adapter: Adapter, answer: Sequence[int], mask_id: int) -> dict[str, Any]:
    """Options for one token at a time, where what stands behind an end id counts too."""
    if adapter.attention == "full":
        canvas = {"block_length": len(answer), "suffix": Suffix("all"), "cache": "none"}
        return {**canvas, "steps": len(answer), "compatible": "fast-dllm-llada"}
    ends_nothing = next(i for i in range(len(answer) + 2) if i != mask_id and i not in answer)
    return {
        "block_length": adapter.block_length,
        "suffix": Suffix("none"),
        "cache": "prefix",
        "confidence_threshold": 2.0,
        "eos_token_id": ends_nothing,
    }


def fills(lm: "DPadLM", pairs: Sequence[Pair]) -> list[bool]:
    """Whether each answer is what the model fills in, one token at a time, the surest first; by
    blocks where its attention is.
    """
    nothing, rows = StopStrings(lm.tokenizer, ()), []
    mask_id = mask_id_of(lm.adapter, lm.settings.mask_token_id)
    for number, (prompt, answer) in enumerate(pairs):
        length = len(answer)
        options = {
            "max_new_tokens": length,
            "early_stop": False,
            "temperature": 0.0,
            "cfg_scale": lm.settings.cfg_scale,
            "mask_token_id": mask_id,
            **_one_by_one(lm.adapter, answer, mask_id),
        }
        rows.append(Row(number, torch.tensor(prompt, dtype=torch.int64), options, 0, nothing))
    found = [False] * len(rows)
    for batch in batches(rows, lm.batch_size):
        _, filled = lm.decode(batch, dpad.DPadGenerationConfig(seed=lm.seed))
        for row, tokens in zip(batch, filled.tolist(), strict=True):
            found[row.number] = tokens == list(pairs[row.number][1])
    return found
