"""A configuration on a model: what all sequences that it decodes have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpad.decode import ancestral, commit
from dpad.decode.daedal import Growth
from dpad.decode.edit import Editing
from dpad.decode.lane import Sampling
from dpad.decode.refine import Refining
from dpad.decode.sequence import blocks_of
from dpad.generation.checks import (
    check_attention,
    check_drawn,
    check_length,
    check_refresh,
    leaves_all,
    refuse_unserved,
    token_ids,
)
from dpad.generation.compat import quirks
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.fields import ALGS, DRAWN_ALGS
from dpad.generation.infill import blocks_of_gaps, check_infill, row_fields
from dpad.models.adapter import Adapter
from dpad.values import about


class Recipe:
    """What a `DPadGenerationConfig` asks of the decoder of one model, whatever the prompts.

    It is made once for all prompts of a call, and for all requests that share their options.

    Attributes:
        config, quirks: the configuration, and what its compatible mode keeps of a published one.
        mask_id, end_ids, pad_id: token ids in force.
        options: fields of a `Sequence` that follow from them.

    Raises:
        ValueError: an option that the model cannot follow, by name and value.
        UnsupportedModelError: the model has hooks that dpad's forward does not run.
    """

    def __init__(self, adapter: Adapter, config: DPadGenerationConfig) -> None:
        refuse_unserved(adapter)
        self.config, self.quirks = config, quirks(config.compatible)
        self.causal = adapter.attention == "block-causal"
        wanted = config.compatible and self.quirks.get("attention", "full")
        check_attention(adapter, config, wanted)
        check_refresh(config)
        check_drawn(adapter, config, self.quirks)
        self.mask_id, self.end_ids, self.pad_id = token_ids(adapter, config)
        check_length(adapter, config, self.quirks, self.end_ids)
        check_infill(adapter, config, self.quirks)
        self.options = self._options(adapter)

    def _options(self, adapter: Adapter) -> dict[str, Any]:
        config, kept = self.config, self.quirks
        return {
            "block_length": config.block_length,
            "mask_id": self.mask_id,
            "rule": _rule(config, kept, adapter.dtype),
            "suffix": config.suffix,
            "cache": config.cache,
            "sampling": self._sampling(adapter.untrained_mask),
            "end_ids": self.end_ids,
            "early_stop": bool(config.early_stop) and not kept.get("length_rules"),
            "stop_in": kept.get("stop_in", "text" if self.causal else "block"),
            "fill_id": self._fill_id(),
            "look_back": (config.look_back or 1) if config.refresh == "recent" else None,
            "refresh_period": config.refresh_period,
            "published_shift": kept.get("published_shift", False),
            "attention": adapter.attention,
            "first_given": self.causal and adapter.shift == 1,
            "sub_block_length": config.sub_block_length,
            "context": self._context(adapter),
            "saves_apart": kept.get("saves_apart", False),
            "steps_of": -(-config.max_new_tokens // config.block_length) if self.causal else None,
            "bounded": kept.get("bounded", False) and config.steps is not None,
            "whole_saves": kept.get("forgets", False),
        }

    def _context(self, adapter: Adapter) -> int | None:
        """How many positions a pass sees, of a longer text; None: all."""
        if not self.quirks.get("forgets"):
            return None
        return self.config.block_length if leaves_all(self.config) else adapter.max_positions

    def lengths(self, prompts: Sequence[Tensor]) -> list[tuple[int, int]]:
        """(positions of the canvas, of the result) of each row.

        The canvas of a block-causal model has whole blocks: it was trained to see all their masks.
        """
        block, new = self.config.block_length, self.config.max_new_tokens
        wanted = [len(p) + new for p in prompts]
        if self.config.infill:
            return [(len(p), len(p)) for p in prompts]
        if self.config.length is not None:  # what it begins with
            new = min(self.config.length.initial_length, new)
            return [(len(p) + new, len(p) + new) for p in prompts]
        if not self.causal:
            return [(n, n) for n in wanted]
        if not self.quirks.get("next_token"):
            canvas = [-(-n // block) * block for n in wanted]
            shown = canvas if self.quirks.get("whole_blocks") else wanted
            return list(zip(canvas, shown, strict=True))
        counted = [len(p) for p in prompts]
        if self.quirks.get("longest"):
            counted = [max(counted)] * len(counted)
        canvas = [(n // block + new // block) * block + 1 for n in counted]
        for row, (n, prompt) in enumerate(zip(canvas, prompts, strict=True)):
            if n <= len(prompt):
                raise about("max_new_tokens", "block_length")(
                    f"row {row}: max_new_tokens = {new} is no whole block of block_length = {block}"
                )
        return [(n, n) for n in canvas]

    def greatest(self, prompts: Sequence[Tensor]) -> list[int]:
        """The most positions that each row may have."""
        if self.config.infill:
            masks = [int((p == self.mask_id).sum()) for p in prompts]
            most = self.config.max_new_tokens if self.config.length is not None else None
            return [
                len(p) - n + (n if most is None else most)
                for p, n in zip(prompts, masks, strict=True)
            ]
        return [len(p) + self.config.max_new_tokens for p in prompts]

    def block_sizes(self, prompt: Tensor) -> list[int]:
        """Masks of each block of a row, as far as its length is known."""
        width, new = self.config.block_length, self.config.max_new_tokens
        if self.config.infill:
            return blocks_of_gaps(prompt, self.mask_id, self._width(len(prompt)))
        return [e - s for s, e in blocks_of(len(prompt), len(prompt) + new, width)]

    def _width(self, length: int) -> int:
        """The block length of a text with gaps."""
        config = self.config
        whole = self.quirks.get("whole_canvas") and config.block_length == config.max_new_tokens
        return length if whole else config.block_length

    def row(self, prompt: Tensor, length: int, shown: int) -> dict[str, Any]:
        """Fields of the `Sequence` of one row: its canvas, and how that grows or is refined."""
        config, how = self.config, self.config.length
        if config.infill:
            fields = row_fields(prompt, self.mask_id) | {"block_length": self._width(length)}
            given = int(fields["given"].sum())
        else:
            tail = prompt.new_tensor([self.pad_id] if self.quirks.get("kept_place") else [])
            masks = prompt.new_full((length - len(prompt) - len(tail),), self.mask_id)
            fields = {"tokens": torch.cat((prompt, masks, tail)), "prompt_length": len(prompt)}
            given = len(prompt)
        if how is not None:
            fields["replan"] = Growth(how, self.end_ids, inside=config.infill)
            fields["capacity"] = given + config.max_new_tokens
        elif config.refine is not None and config.refine.ratio:
            most = 2 * length + (config.steps or 0) + 2
            fields["replan"] = Refining(config.refine, most)
        elif config.edit is not None:  # the end of the text may be edited, too
            early = self.options["early_stop"]
            fields["replan"] = Editing(config.edit, self.end_ids, early, length)
            fields["early_stop"] = False
        return {"shown": shown, **fields}

    def _sampling(self, untrained_mask: bool) -> Sampling:
        config, ends = self.config, self.end_ids
        unfiltered = self.quirks.get("greedy_unfiltered") and not config.temperature
        barred = ends[: self.quirks.get("barred_ends")] if config.logits_eos_inf else ()
        drawn, raced = config.alg in DRAWN_ALGS or config.remask is not None, _raced(config)
        late = ends[self.quirks.get("sampled_ends", 0) if config.temperature else 0 :]
        return Sampling(
            temperature=float(config.temperature),
            top_p=None if unfiltered else config.top_p,
            top_k=config.top_k,
            tempered=drawn or (bool(config.temperature) and self.quirks.get("tempered", False)),
            before_filters=not drawn
            and self.quirks.get("before_filters", self.causal and not self.quirks),
            within_top_p=drawn,
            top_k_first=self.quirks.get("top_k_first", False),
            guidance=float(config.cfg_scale),
            # The mask is drawn, too, where token and mask race.
            suppress=barred
            if raced or self.quirks.get("predicts_masks")
            else (self.mask_id, *barred),
            exclude=(self.mask_id,) * (raced or untrained_mask)
            + (late if config.confidence_eos_eot_inf else barred),
            round_scores=self.quirks.get("round_scores", False),
            random_order=config.remasking == "random",
        )

    def _fill_id(self) -> int:
        """What stands behind an end of text."""
        if self.quirks.get("keeps_masks") or self.config.remask is not None:
            return self.mask_id  # what ends the text may be masked again
        return self.end_ids[0] if self.end_ids else self.pad_id


def _raced(config: DPadGenerationConfig) -> bool:
    """Whether token and mask are drawn against each other."""
    return config.remask is not None or config.alg == "ancestral"


def _rule(
    config: DPadGenerationConfig, kept_quirks: Mapping[str, Any], dtype: torch.dtype
) -> commit.Rule:
    """The commit rule of a configuration; `kept_quirks` are those of its compatible mode, `dtype`
    that of the logits.
    """
    if _raced(config):
        eps = config.given().get("eps", ancestral.EPS)
        last = kept_quirks.get("draws", False)
        return commit.ancestral_steps(config.steps, eps, config.remask, last)
    if config.commit is not None:
        return commit.adaptive_rule(config.commit, config.steps)
    given = [n for n in commit.KINDS if n != "steps" and getattr(config, n) is not None]
    if given:  # one: the configuration has been checked
        option = given[0]
        value = torch.tensor(getattr(config, option), dtype=torch.float64, device="cpu")
        if option == "confidence_threshold" and kept_quirks.get("round_scores", False):
            value = value.to(dtype)
        if kept_quirks.get("strict", False) and option == "confidence_threshold":
            value = torch.nextafter(value, torch.full_like(value, torch.inf))
        if config.alg == "low_confidence_dynamic":
            runs = kept_quirks.get("runs", False)
            return (commit.sure_or_run if runs else commit.at_least)(value, config.steps)
        if option == "entropy_bound" and kept_quirks.get("entropy_sum", False):
            return commit.entropy_sum(value, config.steps)
        if option == "entropy_bound" and kept_quirks.get("surest_within", False):
            return commit.surest_within(value, config.steps)
        if option == "confidence_threshold" and kept_quirks.get("predicts_masks", False):
            return commit.threshold_of_tokens(value)
        published = kept_quirks.get("published_factor", False)
        return commit.valued(option, value, config.steps, published)
    alg = kept_quirks.get("ranks", config.alg)
    if alg == "origin":
        return commit.independent(config.steps, config.eps)
    schedule = "one" if kept_quirks.get("draws") else kept_quirks.get("schedule", "linear")
    ranked = (ALGS[alg], schedule, config.eps, config.alg_temp or 0.0)
    return commit.fixed_quota(config.steps, *ranked)
