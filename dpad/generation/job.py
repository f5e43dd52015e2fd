"""One call of `generate`: settings, decoding in micro-batches, result."""

import torch

from dpad.decode import commit
from dpad.decode.loop import Settings, decode
from dpad.decode.plan import blocks_of
from dpad.generation.checks import check_hooks, check_steps, row_keys, token_ids
from dpad.generation.compat import quirks
from dpad.generation.config import ALGS
from dpad.generation.conventions import BoundConventions
from dpad.generation.hooks import CanvasView, StepHooks, joined_history
from dpad.generation.inputs import check_prompts, supplied_kept
from dpad.generation.output import TRACE_FORMAT, TRACE_VERSION, DPadOutput, Trace, row_events


class Job:
    """One call of `generate`: everything is checked when it is made."""

    def __init__(self, adapter, config, prompts, supplied, conventions, hooks, given):
        self.adapter, self.config, self.prompts = adapter, config, prompts
        self.hooks, self.given = hooks, given  # `given`: ids and mask as they came
        check_hooks(hooks, config, len(prompts))
        self.quirks = quirks(config.compatible)
        self.mask_id, self.end_ids, self.pad_id = token_ids(adapter, config)
        limit = None if self.quirks else adapter.max_positions
        check_prompts(prompts, config.max_new_tokens, adapter, self.mask_id, limit)
        new, width = config.max_new_tokens, config.block_length
        self.blocks = [(blocks_of(len(p), len(p) + new, width), len(p) + new) for p in prompts]
        check_steps(config, [e - s for s, e in self.blocks[0][0]])
        kept = supplied["kept_suffix"]
        self.kept = supplied_kept(kept, self.blocks) if kept is not None else None
        self.noise, self.confidences = supplied["noise"], supplied["confidences"]
        self.row_keys = row_keys(config.row_keys, len(prompts))
        self.conventions = BoundConventions(
            conventions, adapter.model, prompts, self.end_ids, new, adapter.vocab_size
        )
        self.seed = config.seed
        if self.seed is None:  # last: a refused call must not move torch's generator
            self.seed = int(torch.randint(2**63 - 1, (1,), device="cpu"))

    def _step_hooks(self, part):
        """The `StepHooks` of a micro-batch, or None."""
        hooked, history = any(self.hooks.values()), self.config.output_history
        if not hooked and not history:
            return None
        ids, mask = self.given
        mask = None if mask is None else mask[part]
        view = CanvasView(ids[part], mask, self.config.max_new_tokens, self.mask_id)
        return StepHooks(view, self.adapter.shift, **self.hooks, keeps_history=history)

    def _settings(self, first, hooks):
        config = self.config
        hooked = hooks is not None and any(self.hooks.values())
        kept, noise, order = self.kept, self.noise, self.confidences
        ends = self.end_ids
        barred = ends[: self.quirks.get("barred_ends")] if config.logits_eos_inf else ()
        return Settings(
            rule=_rule(config, self.quirks, self.adapter.dtype),
            suffix=config.suffix,
            block_length=config.block_length,
            cache=config.cache,
            temperature=float(config.temperature),
            top_p=config.top_p,
            top_k=config.top_k,
            tempered=self.quirks.get("tempered", False),
            early_stop=bool(config.early_stop),
            seed=self.seed,
            fill_id=self.end_ids[0] if self.end_ids else self.pad_id,
            end_ids=self.end_ids,
            suppress=(self.mask_id, *barred),
            exclude=ends if config.confidence_eos_eot_inf else barred,
            guidance=float(config.cfg_scale),
            random_order=config.remasking == "random",
            published_shift=self.quirks.get("published_shift", False),
            round_scores=self.quirks.get("round_scores", False),
            kept=kept and (lambda row, block: kept(first + row, block)),
            noise=noise and (lambda live, *rest: noise([first + q.row for q in live], *rest)),
            order=order and (lambda live, *rest: order([first + q.row for q in live], *rest)),
            all_steps=hooked and config.steps is not None and len(self.blocks[0][0]) == 1,
            on_begin=hooks.begin if hooked else None,
            whole_logits=hooks.whole_logits if hooked else None,
            **self.conventions.settings(first, hooks and hooks.after_step),
        )

    def run(self, workspace):
        """Decodes all micro-batches, one after the other, on the same buffers."""
        size = 1 if self.config.batch_invariant else self.config.micro_batch or len(self.prompts)
        runs, self.histories = [], []
        longest = max(length for _, length in self.blocks)
        streams = 2 if self.config.cfg_scale else 1
        workspace.reserve(self.adapter, min(size, len(self.prompts)), longest, streams)
        with self.conventions.streaming():
            for first in range(0, len(self.prompts), size):
                part = slice(first, first + size)
                arguments = (self.prompts[part], self.config.max_new_tokens, self.row_keys[part])
                hooks = self._step_hooks(part)
                settings = self._settings(first, hooks)
                if self.config.output_history:
                    self.histories.append(hooks.history)
                runs.append(decode(self.adapter, workspace, *arguments, settings, self.mask_id))
        return runs

    def result(self, ids, runs):
        """The tensor or `DPadOutput` that the caller gets."""
        rows = [(run, q) for run in runs for q in run.sequences]
        new = self.config.max_new_tokens
        answers = [
            run.canvas.tokens[q.row, q.length - new : q.length].to(ids.device) for run, q in rows
        ]
        answer = torch.stack(answers)
        for row, cut in self.conventions.cuts.items():
            answer[row, cut:] = self.pad_id
        if not self.quirks.get("raw_canvas", False) and self.end_ids:
            ends = torch.isin(answer, torch.tensor(self.end_ids, device=ids.device))
            behind = ends.cumsum(-1) - ends.long() > 0
            answer = answer.masked_fill(behind, self.pad_id)
        sequences = torch.cat((ids, answer), dim=-1)
        if not (self.config.return_dict_in_generate or self.config.trace):
            return sequences
        return self._output(sequences, runs, rows)

    def _output(self, sequences, runs, rows):
        forwards = torch.tensor([len(q.forwards) for _, q in rows], device="cpu")
        committed = [int((run.canvas.committed_at[q.row] >= 0).sum()) for run, q in rows]
        committed = torch.tensor(committed, dtype=torch.float64, device="cpu")
        timings = {name: sum(run.seconds[name] for run in runs) for name in runs[0].seconds}
        for name in ("positions", "passes", "replayed"):
            timings[name] = sum(getattr(run, name) for run in runs)
        trace = None
        if self.config.trace:
            header = {"format": TRACE_FORMAT, "version": TRACE_VERSION, "seed": self.seed}
            header["prompt_lengths"] = [len(p) for p in self.prompts]
            header["config"] = self.config.to_diff_dict()
            trace = Trace(header)
            for number, (run, q) in enumerate(rows):
                trace.events += row_events(run, q, number, run.steps)
        return DPadOutput(
            sequences=sequences,
            seed=self.seed,
            forwards=forwards,
            tokens_per_forward=committed / forwards,
            kept_suffix=[[k.cpu() for k in q.log] for _, q in rows],
            finish_reason=[run.reasons[q.row] for run, q in rows],
            timings=timings,
            trace=trace,
            history=joined_history(self.histories) if self.histories else None,
        )


def _rule(config, kept_quirks, dtype):
    """The commit rule of a configuration; `kept_quirks` are those of its compatible mode, `dtype`
    that of the logits.
    """
    if config.confidence_threshold is not None:
        value = torch.tensor(config.confidence_threshold, dtype=torch.float64, device="cpu")
        if kept_quirks.get("round_scores", False):
            value = value.to(dtype)
        return commit.threshold(value, steps=config.steps)
    if config.factor is not None:
        return commit.factor(config.factor, kept_quirks.get("published_factor", False))
    if config.entropy_bound is not None:
        return commit.entropy_bound(config.entropy_bound)
    alg = kept_quirks.get("ranks", config.alg)
    if alg == "origin":
        return commit.independent(config.steps, config.eps)
    schedule = kept_quirks.get("schedule", "linear")
    ranked = (ALGS[alg], schedule, config.eps, config.alg_temp or 0.0)
    return commit.fixed_quota(config.steps, *ranked)
