"""One call of `generate`: sequences, decoding, result."""

import torch
from torch.nn.utils.rnn import pad_sequence

from dpad.decode import commit
from dpad.decode.loop import decode
from dpad.decode.sequence import Hooks, Sampling, Sequence, blocks_of
from dpad.generation.checks import (
    check_attention,
    check_hooks,
    check_refresh,
    check_steps,
    check_supplied_order,
    row_keys,
    token_ids,
)
from dpad.generation.compat import quirks
from dpad.generation.config import ALGS
from dpad.generation.conventions import BoundConventions
from dpad.generation.hooks import CanvasView, StepHooks
from dpad.generation.inputs import check_prompts, supplied_draws, supplied_kept
from dpad.generation.output import TRACE_FORMAT, TRACE_VERSION, DPadOutput, Trace, row_events

COUNTS = ("positions", "passes", "replayed")  # of a run


class Job:
    """One call of `generate`: everything is checked when it is made.

    `sequences` are what is to be decoded, one per row; they hold all that they are decoded by.
    """

    def __init__(self, adapter, config, prompts, supplied, conventions, hooks, given):
        self.adapter, self.config, self.prompts = adapter, config, prompts
        self.hooks, self.given = hooks, given  # `given`: ids and mask as they came
        adapter.refuse_unserved()
        self.quirks = quirks(config.compatible)
        wanted = config.compatible and self.quirks.get("attention", "full")
        check_attention(adapter, config, wanted, supplied, hooks)
        check_hooks(hooks, config, len(prompts))
        if self.quirks.get("coupled") and config.cache == "dual" and len(prompts) > 1:
            raise ValueError(
                f"compatible = {config.compatible!r} and cache = 'dual' with {len(prompts)} rows: "
                "the published program rebuilds the caches of all rows together, so that a row "
                "depends on its batch; take cache='prefix', or one row"
            )
        self.causal = adapter.attention == "block-causal"
        self.mask_id, self.end_ids, self.pad_id = token_ids(adapter, config)
        limit = None if self.quirks else adapter.max_positions
        check_prompts(prompts, config.max_new_tokens, adapter, self.mask_id, limit)
        new, width = config.max_new_tokens, config.block_length
        blocks = [(blocks_of(len(p), len(p) + new, width), len(p) + new) for p in prompts]
        check_refresh(config)
        check_supplied_order(config, supplied["confidences"])
        check_steps(config, [e - s for s, e in blocks[0][0]])
        self.lengths = self._lengths()
        kept = supplied["kept_suffix"]
        whole = not config.early_stop and not conventions.stopping_criteria
        self.kept = supplied_kept(kept, blocks, whole) if kept is not None else None
        self.noise, self.confidences = (
            supplied_draws(n, supplied[n]) for n in ("noise", "confidences")
        )
        keys = row_keys(config.row_keys, len(prompts))
        self.conventions = BoundConventions(
            conventions, adapter.model, prompts, self.end_ids, new, adapter.vocab_size
        )
        self.seed = config.seed
        if self.seed is None:  # last: a refused call must not move torch's generator
            self.seed = int(torch.randint(2**63 - 1, (1,), device="cpu"))
        self.sequences = self._sequences(keys, len(blocks[0][0]))

    def _step_hooks(self):
        """The `StepHooks` of the call, or None."""
        history = self.config.output_history
        if not any(self.hooks.values()) and not history:
            return None
        view = CanvasView(*self.given, self.config.max_new_tokens, self.mask_id)
        return StepHooks(view, self.adapter.shift, **self.hooks, keeps_history=history)

    def _hooks(self):
        """The caller's code, for all sequences of the call."""
        noise, order, kept = self.noise, self.confidences, self.kept
        numbers = lambda sequences: [q.number for q in sequences]  # noqa: E731
        hooked = self.step_hooks is not None and any(self.hooks.values())
        return Hooks(
            kept=kept and (lambda q: kept(q.number, q.block)),
            noise=noise and (lambda live, *rest: noise(numbers(live), *rest)),
            order=order and (lambda live, *rest: order(numbers(live), *rest)),
            whole_logits=self.step_hooks.whole_logits if hooked else None,
            on_begin=self.step_hooks.begin if self.step_hooks else None,
            **self.conventions.hooks(self.step_hooks and self.step_hooks.after_step),
        )

    def _lengths(self):
        """(positions of the canvas, of the result) of each row.

        The canvas of a block-causal model has whole blocks: it was trained to see all their masks.
        """
        block, new = self.config.block_length, self.config.max_new_tokens
        wanted = [len(p) + new for p in self.prompts]
        if not self.causal:
            return [(n, n) for n in wanted]
        if not self.quirks.get("next_token"):
            canvas = [-(-n // block) * block for n in wanted]
            shown = canvas if self.quirks.get("whole_blocks") else wanted
            return list(zip(canvas, shown, strict=True))
        prompts = [len(p) for p in self.prompts]
        if self.quirks.get("longest"):
            prompts = [max(prompts)] * len(prompts)
        canvas = [(n // block + new // block) * block + 1 for n in prompts]
        for row, (n, prompt) in enumerate(zip(canvas, self.prompts, strict=True)):
            if n <= len(prompt):
                raise ValueError(
                    f"row {row}: max_new_tokens = {new} is no whole block of block_length = {block}"
                )
        return [(n, n) for n in canvas]

    def _sampling(self):
        config, ends = self.config, self.end_ids
        unfiltered = self.quirks.get("greedy_unfiltered") and not config.temperature
        barred = ends[: self.quirks.get("barred_ends")] if config.logits_eos_inf else ()
        late = ends[self.quirks.get("sampled_ends", 0) if config.temperature else 0 :]
        return Sampling(
            temperature=float(config.temperature),
            top_p=None if unfiltered else config.top_p,
            top_k=config.top_k,
            tempered=bool(config.temperature) and self.quirks.get("tempered", False),
            before_filters=self.quirks.get("before_filters", self.causal and not self.quirks),
            top_k_first=self.quirks.get("top_k_first", False),
            guidance=float(config.cfg_scale),
            suppress=(self.mask_id, *barred),
            exclude=late if config.confidence_eos_eot_inf else barred,
            round_scores=self.quirks.get("round_scores", False),
            random_order=config.remasking == "random",
        )

    def _sequences(self, keys, blocks):
        config = self.config
        self.step_hooks = self._step_hooks()
        hooked = any(self.hooks.values())
        options = {
            "block_length": config.block_length,
            "mask_id": self.mask_id,
            "rule": _rule(config, self.quirks, self.adapter.dtype),
            "suffix": config.suffix,
            "cache": config.cache,
            "sampling": self._sampling(),
            "end_ids": self.end_ids,
            "early_stop": bool(config.early_stop),
            "stop_in": self.quirks.get("stop_in", "text" if self.causal else "block"),
            "fill_id": self._fill_id(),
            "seed": self.seed,
            "look_back": 1 if config.refresh == "recent" else None,
            "refresh_period": config.refresh_period,
            "published_shift": self.quirks.get("published_shift", False),
            "all_steps": hooked and config.steps is not None and blocks == 1,
            "attention": self.adapter.attention,
            "first_given": self.causal and self.adapter.shift == 1,
            "sub_block_length": config.sub_block_length,
            "saves_apart": self.quirks.get("saves_apart", False),
            "steps_of": -(-config.max_new_tokens // config.block_length) if self.causal else None,
            "bounded": self.quirks.get("bounded", False) and config.steps is not None,
            "hooks": self._hooks(),
        }
        cohort = [] if self.quirks.get("cohort") and self._together() is None else None
        masks = torch.full((max(n for n, _ in self.lengths),), self.mask_id, device="cpu")
        rows = enumerate(zip(self.prompts, keys, self.lengths, strict=True))
        sequences = [
            Sequence(
                tokens=torch.cat((prompt, masks[len(prompt) : length])),
                prompt_length=len(prompt),
                shown=shown,
                row_key=key,
                number=number,
                cohort=cohort,
                **options,
            )
            for number, (prompt, key, (length, shown)) in rows
        ]
        if cohort is not None:
            cohort += sequences
        return sequences

    def _fill_id(self):
        """What stands behind an end of text."""
        if self.quirks.get("keeps_masks"):
            return self.mask_id
        return self.end_ids[0] if self.end_ids else self.pad_id

    def _together(self):
        """How many rows are decoded at a time; None: all."""
        most = 1 if self.config.batch_invariant else self.config.micro_batch
        return None if most is None or most >= len(self.prompts) else most

    def run(self, workspace):
        """Decodes the sequences; their `loop.Run`."""
        together = self._together()
        with self.conventions.streaming():
            return decode(self.adapter, workspace, self.sequences, together)

    def result(self, run):
        """The tensor or `DPadOutput` that the caller gets; `run` is the `loop.Run`."""
        if not (self.config.return_dict_in_generate or self.config.trace):
            return self.token_ids()
        return self.output({**run.seconds, **{n: getattr(run, n) for n in COUNTS}})

    def token_ids(self):
        """int64 ``[batch, columns]``: the input columns, then the answers, padded behind an end."""
        ids = self.given[0]
        answers = [q.result.tokens[q.prompt_length : q.shown] for q in self.sequences]
        answer = pad_sequence(answers, True, self.pad_id).to(ids.device)
        for row, cut in self.conventions.cuts.items():
            answer[row, cut:] = self.pad_id
        if not self.quirks.get("raw_canvas", False) and self.end_ids:
            ends = torch.isin(answer, torch.tensor(self.end_ids, device=ids.device))
            behind = ends.cumsum(-1) - ends.long() > 0
            answer = answer.masked_fill(behind, self.pad_id)
        return torch.cat((ids, answer), dim=-1)

    def output(self, timings):
        """The `DPadOutput` of the sequences, all of which have ended."""
        rows = self.sequences
        forwards = torch.tensor([len(q.forwards) for q in rows], device="cpu")
        committed = [int((q.result.committed_at[: q.shown] >= 0).sum()) for q in rows]
        committed = torch.tensor(committed, dtype=torch.float64, device="cpu")
        trace = None
        if self.config.trace:
            header = {"format": TRACE_FORMAT, "version": TRACE_VERSION, "seed": self.seed}
            header["prompt_lengths"] = [len(p) for p in self.prompts]
            header["config"] = self.config.to_diff_dict()
            trace = Trace(header, [event for q in rows for event in row_events(q)])
        return DPadOutput(
            sequences=self.token_ids(),
            seed=self.seed,
            forwards=forwards,
            tokens_per_forward=committed / forwards,
            kept_suffix=[[k.cpu() for k in q.kept_by_block] for q in rows],
            finish_reason=[q.reason for q in rows],
            timings=timings,
            trace=trace,
            history=self.step_hooks.joined_history() if self.config.output_history else None,
        )


def _rule(config, kept_quirks, dtype):
    """The commit rule of a configuration; `kept_quirks` are those of its compatible mode, `dtype`
    that of the logits.
    """
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
        published = kept_quirks.get("published_factor", False)
        return commit.valued(option, value, config.steps, published)
    alg = kept_quirks.get("ranks", config.alg)
    if alg == "origin":
        return commit.independent(config.steps, config.eps)
    schedule = kept_quirks.get("schedule", "linear")
    ranked = (ALGS[alg], schedule, config.eps, config.alg_temp or 0.0)
    return commit.fixed_quota(config.steps, *ranked)
