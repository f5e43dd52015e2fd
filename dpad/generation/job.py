"""One call of `generate`: sequences, decoding, result."""

import torch

from dpad.decode import commit
from dpad.decode.loop import decode
from dpad.decode.sequence import Hooks, Sampling, Sequence, blocks_of
from dpad.generation.checks import (
    check_attention,
    check_hooks,
    check_refresh,
    check_steps,
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
        check_attention(adapter)
        check_hooks(hooks, config, len(prompts))
        self.quirks = quirks(config.compatible)
        self.mask_id, self.end_ids, self.pad_id = token_ids(adapter, config)
        limit = None if self.quirks else adapter.max_positions
        check_prompts(prompts, config.max_new_tokens, adapter, self.mask_id, limit)
        new, width = config.max_new_tokens, config.block_length
        blocks = [(blocks_of(len(p), len(p) + new, width), len(p) + new) for p in prompts]
        check_refresh(config)
        check_steps(config, [e - s for s, e in blocks[0][0]])
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

    def _sampling(self):
        config, ends = self.config, self.end_ids
        barred = ends[: self.quirks.get("barred_ends")] if config.logits_eos_inf else ()
        late = ends[self.quirks.get("sampled_ends", 0) if config.temperature else 0 :]
        return Sampling(
            temperature=float(config.temperature),
            top_p=config.top_p,
            top_k=config.top_k,
            tempered=bool(config.temperature) and self.quirks.get("tempered", False),
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
            "fill_id": self.end_ids[0] if self.end_ids else self.pad_id,
            "seed": self.seed,
            "look_back": 1 if config.refresh == "recent" else None,
            "refresh_period": config.refresh_period,
            "published_shift": self.quirks.get("published_shift", False),
            "all_steps": hooked and config.steps is not None and blocks == 1,
            "hooks": self._hooks(),
        }
        cohort = [] if self.quirks.get("cohort") and self._together() is None else None
        masks = torch.full((config.max_new_tokens,), self.mask_id, device="cpu")
        rows = enumerate(zip(self.prompts, keys, strict=True))
        sequences = [
            Sequence(
                tokens=torch.cat((prompt, masks)),
                prompt_length=len(prompt),
                row_key=key,
                number=number,
                cohort=cohort,
                **options,
            )
            for number, (prompt, key) in rows
        ]
        if cohort is not None:
            cohort += sequences
        return sequences

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
        ids, new = self.given[0], self.config.max_new_tokens
        answer = torch.stack([q.result.tokens[-new:].to(ids.device) for q in self.sequences])
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
        committed = [int((q.result.committed_at >= 0).sum()) for q in rows]
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
    given = [n for n in commit.KINDS if n != "steps" and getattr(config, n) is not None]
    if given:  # one: the configuration has been checked
        option = given[0]
        value = torch.tensor(getattr(config, option), dtype=torch.float64, device="cpu")
        if option == "confidence_threshold" and kept_quirks.get("round_scores", False):
            value = value.to(dtype)
        published = kept_quirks.get("published_factor", False)
        return commit.valued(option, value, config.steps, published)
    alg = kept_quirks.get("ranks", config.alg)
    if alg == "origin":
        return commit.independent(config.steps, config.eps)
    schedule = kept_quirks.get("schedule", "linear")
    ranked = (ALGS[alg], schedule, config.eps, config.alg_temp or 0.0)
    return commit.fixed_quota(config.steps, *ranked)
