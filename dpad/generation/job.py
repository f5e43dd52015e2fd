"""One call of `generate`: sequences, decoding, result."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dpad.decode.lane import Hooks
from dpad.decode.loop import decode
from dpad.decode.refine import Refining
from dpad.decode.sequence import Sequence, blocks_of
from dpad.decode.stats import Stats
from dpad.decode.workspace import Workspace
from dpad.generation.checks import (
    check_behind,
    check_edit,
    check_growth,
    check_hooks,
    check_left,
    check_refine,
    check_steps,
    check_supplied_order,
    row_keys,
)
from dpad.generation.conventions import BoundConventions, Conventions
from dpad.generation.hooks import CanvasView, StepHooks
from dpad.generation.infill import check_given, filled, first_gap
from dpad.generation.inputs import check_prompts, supplied_draws, supplied_kept
from dpad.generation.length_rules import LengthRules
from dpad.generation.output import TRACE_FORMAT, TRACE_VERSION, DPadOutput, Trace, row_events
from dpad.generation.recipe import Recipe
from dpad.generation.reward import Rewarded, check_reward
from dpad.models.adapter import Adapter
from dpad.values import about

COUNTS = ("positions", "passes", "replayed")  # of a run


class Job:
    """One call of `generate`: everything is checked when it is made.

    `sequences` are what is to be decoded, one per row; they hold all that they are decoded by.
    `given` are ids and mask as they came; `seed` and `keys` stand for those of the configuration.
    """

    def __init__(
        self,
        adapter: Adapter,
        recipe: Recipe,
        prompts: list[Tensor],
        supplied: Mapping[str, Any],
        conventions: Conventions,
        hooks: dict[str, Any],
        given: tuple[Tensor | None, Tensor | None],
        seed: int | None = None,
        keys: list[int] | None = None,
    ) -> None:
        self.adapter, self.recipe, self.config = adapter, recipe, recipe.config
        self.prompts, self.hooks, self.given = prompts, hooks, given
        config, self.quirks = recipe.config, recipe.quirks
        check_behind(adapter, supplied, hooks)
        check_hooks(hooks, config, len(prompts))
        check_growth(config, supplied)
        check_refine(adapter, config, hooks)
        check_edit(config, hooks)
        if self.quirks.get("coupled") and config.cache == "dual" and len(prompts) > 1:
            raise about("compatible", "cache")(
                f"compatible = {config.compatible!r} and cache = 'dual' with {len(prompts)} rows: "
                "the published program rebuilds the caches of all rows together, so that a row "
                "depends on its batch; take cache='prefix', or one row"
            )
        limit = None if self.quirks else adapter.max_positions
        new, width = config.max_new_tokens, config.block_length
        grows = config.length is not None
        most = new if grows or not config.infill else None
        check_prompts(prompts, most, adapter, recipe.mask_id, limit, config.infill)
        if config.infill:
            check_given(supplied, hooks, conventions.stopping_criteria)
        blocks = [(blocks_of(len(p), len(p) + new, width), len(p) + new) for p in prompts]
        if self.quirks.get("forgets"):
            check_left(config, prompts)
        check_supplied_order(config, supplied["confidences"])
        counts = {tuple(recipe.block_sizes(p)) for p in (prompts if config.infill else prompts[:1])}
        for sizes in counts:
            check_steps(config, sizes)
        if self.quirks.get("kept_place") and new < 2:
            raise about("max_new_tokens", "compatible")(
                f"max_new_tokens = {new}: compatible = {config.compatible!r} keeps the last place"
            )
        self.lengths = recipe.lengths(prompts)
        kept = supplied["kept_suffix"]
        whole = not config.early_stop and not conventions.stopping_criteria
        self.kept = supplied_kept(kept, blocks, whole) if kept is not None else None
        self.noise, self.confidences = (
            supplied_draws(n, supplied[n]) for n in ("noise", "confidences")
        )
        own = {"seed": seed, "row_keys": keys}
        self.own = {n: v for n, v in own.items() if v is not None}
        keys = row_keys(config.row_keys if keys is None else keys, len(prompts))
        texts, ends = prompts, recipe.end_ids
        if config.infill:  # what is handed out begins with the first gap
            texts, ends = [p[: first_gap(p, recipe.mask_id)] for p in prompts], ()
        self.new = [most - len(p) for most, p in zip(recipe.greatest(prompts), texts, strict=True)]
        self.reward = check_reward(supplied.get("reward"), config, supplied["noise"])
        self.conventions = BoundConventions(
            conventions,
            adapter.model,
            texts,
            ends,
            self.new,
            adapter.vocab_size,
            self._length_rules(ends),
        )
        self.seed = config.seed if seed is None else seed
        if self.seed is None:  # last: a refused call must not move torch's generator
            self.seed = int(torch.randint(2**63 - 1, (1,), device="cpu"))
        self.sequences = self._sequences(keys, len(blocks[0][0]))

    @property
    def _columns(self) -> tuple[Tensor, Tensor | None]:
        """`given`, of which a result is made."""
        ids, mask = self.given
        assert ids is not None
        return ids, mask

    def _length_rules(self, end_ids: tuple[int, ...]) -> list[LengthRules] | None:
        """The `LengthRules` of each row, or None."""
        if not self.quirks.get("length_rules"):
            return None
        varies = bool(self.config.early_stop)
        return [LengthRules(n, p, end_ids, varies) for n, p in enumerate(self.prompts)]

    def _step_hooks(self) -> StepHooks | None:
        """The `StepHooks` of the call, or None."""
        history = self.config.output_history
        if not any(self.hooks.values()) and not history:
            return None
        ids, mask = self._columns
        view = CanvasView(ids, mask, self.config.max_new_tokens, self.recipe.mask_id)
        return StepHooks(view, self.adapter.shift, **self.hooks, keeps_history=history)

    def _hooks(self) -> Hooks:
        """The caller's code, for all sequences of the call."""
        noise, order, kept = self.noise, self.confidences, self.kept
        steps = self.step_hooks
        hooked = any(self.hooks.values())
        own = self.conventions.hooks(None if steps is None else steps.after_step)
        if self.reward is not None:
            rewarded = Rewarded(self.reward, own["process_logits"])
            own |= {"process_logits": rewarded.process_logits, "noise": rewarded.noise}
        elif noise is not None:
            own["noise"] = lambda live, *rest: noise(_numbers(live), *rest)
        return Hooks(
            kept=kept and (lambda q: kept(q.number, q.block)),
            order=order and (lambda live, *rest: order(_numbers(live), *rest)),
            whole_logits=steps.whole_logits if steps is not None and hooked else None,
            on_begin=None if steps is None else steps.begin,
            **own,
        )

    def _sequences(self, keys: list[int], blocks: int) -> list[Sequence]:
        hooked = any(self.hooks.values())
        self.step_hooks = self._step_hooks()
        options = {
            **self.recipe.options,
            "seed": self.seed,
            "all_steps": hooked and blocks == 1 and self.recipe.options["rule"].spread,
            "hooks": self._hooks(),
        }
        cohort: list[Sequence] | None
        cohort = [] if self.quirks.get("cohort") and self._together() is None else None
        rows = enumerate(zip(self.prompts, keys, self.lengths, strict=True))
        sequences = [
            Sequence(
                row_key=key,
                number=number,
                cohort=cohort,
                **{**options, **self.recipe.row(prompt, *lengths)},
            )
            for number, (prompt, key, lengths) in rows
        ]
        if cohort is not None:
            cohort += sequences
        return sequences

    def _together(self) -> int | None:
        """How many rows are decoded at a time; None: all."""
        most = 1 if self.config.batch_invariant else self.config.micro_batch
        return None if most is None or most >= len(self.prompts) else most

    def run(self, workspace: Workspace) -> Stats:
        """Decodes the sequences; the decoder's `Stats`."""
        together = self._together()
        with self.conventions.streaming():
            return decode(self.adapter, workspace, self.sequences, together)

    def result(self, stats: Stats) -> Tensor | DPadOutput:
        """The tensor or `DPadOutput` that the caller gets."""
        if not (self.config.return_dict_in_generate or self.config.trace):
            return self.token_ids()
        return self.output({**stats.seconds, **{n: getattr(stats, n) for n in COUNTS}})

    def token_ids(self) -> Tensor:
        """int64 ``[batch, columns]``: the input columns, then the answers, padded behind an end; or
        the input with its gaps filled.
        """
        if self.config.infill:
            return filled(*self._columns, self.sequences, self.recipe.pad_id)
        ids, ends = self._columns[0], () if self.quirks.get("raw_canvas") else self.recipe.end_ids
        columns, width = ids.shape[1], max(q.shown - q.prompt_length for q in self.sequences)
        out = ids.new_full((len(self.sequences), columns + width), self.recipe.pad_id)
        out[:, :columns] = ids
        for row, q in enumerate(self.sequences):
            answer = q.result.tokens[q.prompt_length : q.shown]
            answer = answer[: self.conventions.cuts.get(row)]
            before = before_end(answer, ends)
            answer = answer if before is None else answer[: before + 1]
            out[row, columns : columns + len(answer)] = answer
        return out

    def output(self, timings: dict[str, float]) -> DPadOutput:
        """The `DPadOutput` of the sequences, all of which have ended."""
        rows, steps = self.sequences, self.step_hooks
        forwards = torch.tensor([len(q.forwards) for q in rows], device="cpu")
        counts = [int((q.result.committed_at[: q.shown] >= 0).sum()) for q in rows]
        committed = torch.tensor(counts, dtype=torch.float64, device="cpu")
        trace = None
        if self.config.trace:
            header: dict[str, Any] = {
                "format": TRACE_FORMAT,
                "version": TRACE_VERSION,
                "seed": self.seed,
            }
            header["prompt_lengths"] = [q.prompt_length for q in rows]
            header["config"] = self.config.to_diff_dict() | self.own
            if self.config.infill:
                header["new_tokens"] = max(self.new)
            trace = Trace(header, [event for q in rows for event in row_events(q)])
        return DPadOutput(
            sequences=self.token_ids(),
            seed=self.seed,
            forwards=forwards,
            tokens_per_forward=committed / forwards,
            kept_suffix=[[k.cpu() for k in q.kept_by_block] for q in rows],
            finish_reason=[q.reason or "" for q in rows],
            timings=timings,
            trace=trace,
            history=steps.joined_history() if steps and self.config.output_history else None,
            refined=self._refined(),
        )

    def _refined(self) -> Tensor | None:
        """What was refined of each row, see `DPadOutput`."""
        if self.config.refine is None:
            return None
        how = [q.replan for q in self.sequences]
        counts = [(r.masked, r.same) if isinstance(r, Refining) else (0, 0) for r in how]
        return torch.tensor(counts, device="cpu")


def _numbers(sequences: list[Sequence]) -> list[int]:
    return [q.number for q in sequences]


def before_end(tokens: Tensor, end_ids: Iterable[int]) -> int | None:
    """Number of tokens before the first end id, or None without one."""
    ends = set(end_ids)
    return next((n for n, token in enumerate(tokens.tolist()) if token in ends), None)
