"""`generate`: checks, settings, decoding in micro-batches, result."""

from contextlib import nullcontext

import torch

from dpad import ops
from dpad.decode import commit
from dpad.decode.loop import Settings, decode
from dpad.decode.plan import blocks_of
from dpad.decode.workspace import Workspace
from dpad.generation import presets
from dpad.generation.compat import quirks
from dpad.generation.config import ALGS, QUOTA_ALGS, RULES, DPadGenerationConfig, resolve_names
from dpad.generation.conventions import BoundConventions, Conventions
from dpad.generation.hooks import CanvasView, StepHooks, joined_history
from dpad.generation.inputs import check_prompts, read_inputs, split_prompts, supplied_kept
from dpad.generation.loops import loop_options, run_loop
from dpad.generation.output import TRACE_FORMAT, TRACE_VERSION, DPadOutput, Trace, row_events
from dpad.generation.stored import stored_options
from dpad.models.adapter import find_adapter


def generate(
    model,
    inputs=None,
    *,
    input_ids=None,
    attention_mask=None,
    generation_config=None,
    streamer=None,
    kept_suffix=None,
    noise=None,
    confidences=None,
    generation_tokens_hook_func=None,
    generation_logits_hook_func=None,
    logits_processor=None,
    stopping_criteria=None,
    callback_on_step_end=None,
    callback_on_step_end_tensor_inputs=None,
    callback_on_step_end_tensor_outputs=None,
    custom_generate=None,
    **options,
):
    """Decodes with a masked-diffusion model, patched or not.

    Args:
        model: a LLaDA in the released remote code or in `dpad.models.hf`; it is not changed.
        inputs: prompt ids ``[batch, length]`` (tensor or lists) or a mapping that holds them; or
            pass `input_ids`. Rows may be padded on the left or the right by `attention_mask`.
        generation_config: `DPadGenerationConfig`; `options` override its fields. What neither
            gives is the default of the model's variant (`dpad.presets`).
        streamer: a Transformers streamer; gets the prompt and each finished block, and drafts if it
            has `put_draft` (`dpad.generation.streaming`). Batch 1.
        kept_suffix: kept suffix positions to use instead of drawing: per block, or per row and
            block, or a function (row, block).
        noise: float64 Gumbel noise to use instead of drawing: a function
            (rows, positions, vocab) -> ``[logit rows, vocab]``.
        confidences: float64 scores for the commit rule to rank: a function (rows, positions,
            eligible) -> ``[logit rows]``; replaces the draws of random remasking.
        generation_tokens_hook_func, generation_logits_hook_func: Dream's hooks (step, x, logits) on
            the whole canvas, see `dpad.generation.hooks`; exact modes only.
        logits_processor: list of Transformers' processors. Each sees one position at a time: the
            row's tokens before it, and its logits (`dpad.generation.processing.Processors`).
        stopping_criteria: list of Transformers' criteria, asked about each token of a finished
            block (`dpad.generation.processing.Criteria`).
        callback_on_step_end: a function (model, step, timestep, tensors), called after each step
            (`dpad.generation.callback.StepCallback`). It gets the tensors named in
            `callback_on_step_end_tensor_inputs` ("block", "confidence", "transfer_index",
            "kept_suffix"; default "block") and may change those named in
            `callback_on_step_end_tensor_outputs` ("block"; default none).
        custom_generate: a decoding loop to run in place of dpad's, called as Transformers calls
            one (`dpad.generation.loops.run_loop`); options that its signature names are its own.

    Returns:
        int64 ``[batch, length + max_new_tokens]``, or a `DPadOutput` with
        ``return_dict_in_generate`` or ``trace``.

    Raises:
        TypeError, ValueError: a bad argument, by name and value, before any work.
        UnsupportedModelError: not a model that dpad knows.
        MemoryError: the K/V cache does not fit, with the bytes.
        NaNLogitsError: the model gave NaN logits.
    """
    handle = getattr(model, "_dpad_handle", None)
    adapter = handle.adapter if handle is not None else find_adapter(model)
    base = handle.config if handle is not None else None
    extra = {} if custom_generate is None else loop_options(custom_generate, options)
    config = merge(model, base, generation_config, options)
    ids, mask = read_inputs(inputs, input_ids, attention_mask)
    if config.num_return_sequences > 1:
        ids, mask = (
            None if t is None else t.repeat_interleave(config.num_return_sequences, dim=0)
            for t in (ids, mask)
        )
    prompts = split_prompts(ids, mask)
    supplied = {"kept_suffix": kept_suffix, "noise": noise, "confidences": confidences}
    hooks = {"tokens": generation_tokens_hook_func, "logits": generation_logits_hook_func}
    conventions = Conventions(
        streamer,
        logits_processor,
        stopping_criteria,
        callback_on_step_end,
        callback_on_step_end_tensor_inputs,
        callback_on_step_end_tensor_outputs,
    )
    if custom_generate is not None:
        dreams = {f"generation_{name}_hook_func": hook for name, hook in hooks.items()}
        extra.update(supplied, **vars(conventions), **dreams)
        return run_loop(custom_generate, model, ids, mask, config, extra)
    job = Job(adapter, config, prompts, supplied, conventions, hooks, (ids, mask))
    with handle.workspace() if handle is not None else nullcontext(Workspace()) as workspace:
        runs = job.run(workspace)
    return job.result(ids, runs)


def merge(model, base, given, options):
    """The configuration in force.

    Options over `given` over `base` over what the model brings along (`stored_options`) over the
    defaults of its compatible mode and variant.
    """
    config = DPadGenerationConfig()
    for layer in (base, given):
        if layer is not None and not isinstance(layer, DPadGenerationConfig):
            raise TypeError(
                f"generation_config is a {type(layer).__name__}: expected a DPadGenerationConfig"
            )
    chosen = {n: v for n, v in resolve_names(options).items() if v is not None}
    for layer in (given, base):
        _fill(chosen, {} if layer is None else layer.given())
    _fill(chosen, stored_options(model))
    kept_quirks = quirks(chosen.get("compatible"))
    _fill(chosen, kept_quirks.get("defaults", {}))
    if kept_quirks.get("whole_canvas"):
        chosen.setdefault("block_length", chosen["max_new_tokens"])
    _fill(chosen, presets.defaults_for(model))
    config.update(**chosen)
    return config


def _fill(chosen, layer):
    """Adds the fields of a lower layer; a commit rule that was chosen hides all lower ones."""
    ruled = any(chosen.get(n) is not None for n in RULES)
    fixed = chosen.get("remasking") == "random" or chosen.get("alg") in QUOTA_ALGS
    for name, value in layer.items():
        if name in RULES and (ruled or (fixed and name != "steps")):
            continue
        chosen.setdefault(name, value)


def _rule(config, kept_quirks, dtype):
    """The commit rule of a configuration; `kept_quirks` are those of its compatible mode, `dtype`
    that of the logits.
    """
    if config.confidence_threshold is not None:
        value = torch.tensor(config.confidence_threshold, dtype=torch.float64)
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


def _ids(value):
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(int(v) for v in value)


class Job:
    """One call of `generate`: everything is checked when it is made."""

    def __init__(self, adapter, config, prompts, supplied, conventions, hooks, given):
        self.adapter, self.config, self.prompts = adapter, config, prompts
        self.hooks, self.given = hooks, given  # `given`: ids and mask as they came
        self._check_hooks()
        self.quirks = quirks(config.compatible)
        self.mask_id = adapter.mask_id if config.mask_token_id is None else config.mask_token_id
        if self.mask_id is None:
            raise ValueError(
                "the model does not name its mask token: pass mask_token_id= (the id of "
                "'<|mdm_mask|>' or '[MASK]' in its tokenizer)"
            )
        self.end_ids = _ids(config.eos_token_id) or tuple(adapter.end_ids)
        pad = adapter.pad_id if config.pad_token_id is None else config.pad_token_id
        self.pad_id = pad if pad is not None else (self.end_ids or (0,))[0]
        self._check_ids()
        limit = None if self.quirks else adapter.max_positions
        check_prompts(prompts, config.max_new_tokens, adapter, self.mask_id, limit)
        new, width = config.max_new_tokens, config.block_length
        self.blocks = [(blocks_of(len(p), len(p) + new, width), len(p) + new) for p in prompts]
        self._check_steps([e - s for s, e in self.blocks[0][0]])
        kept = supplied["kept_suffix"]
        self.kept = supplied_kept(kept, self.blocks) if kept is not None else None
        self.noise, self.confidences = supplied["noise"], supplied["confidences"]
        self.row_keys = self._row_keys()
        self.conventions = BoundConventions(
            conventions, adapter.model, prompts, self.end_ids, new, adapter.vocab_size
        )
        self.seed = config.seed
        if self.seed is None:  # last: a refused call must not move torch's generator
            self.seed = int(torch.randint(2**63 - 1, (1,)))

    def _check_hooks(self):
        """Dream's hooks see every position of every row in every step."""
        config = self.config
        named = [f"generation_{n}_hook_func" for n, hook in self.hooks.items() if hook is not None]
        whole = {
            "cache": config.cache == "none",
            "suffix": config.suffix.kind == "all",
            "cfg_scale": not config.cfg_scale,
            "batch_invariant": not config.batch_invariant,
            "micro_batch": (config.micro_batch or len(self.prompts)) >= len(self.prompts),
        }
        broken = [n for n, good in whole.items() if not good]
        if named and broken:
            raise ValueError(
                f"{named[0]} and {broken[0]} = {getattr(config, broken[0])!r}: the hook sees the "
                "whole canvas, all of which must be computed together"
            )
        for name, hook in zip(self.hooks, self.hooks.values(), strict=True):
            if hook is not None and not callable(hook):
                raise TypeError(f"generation_{name}_hook_func = {hook!r} is not callable")

    def _step_hooks(self, part):
        """The `StepHooks` of a micro-batch, or None."""
        hooked, history = any(self.hooks.values()), self.config.output_history
        if not hooked and not history:
            return None
        ids, mask = self.given
        mask = None if mask is None else mask[part]
        view = CanvasView(ids[part], mask, self.config.max_new_tokens, self.mask_id)
        return StepHooks(view, self.adapter.shift, **self.hooks, keeps_history=history)

    def _check_steps(self, blocks):
        """`blocks`: their lengths."""
        config, steps = self.config, self.config.steps
        needed = {"origin": "steps", "confidence_threshold": "confidence_threshold"}.get(config.alg)
        if needed and getattr(config, needed) is None:
            raise ValueError(f"alg = {config.alg!r} needs {needed}=")
        if steps is None:
            return
        if steps < len(blocks):
            raise ValueError(
                f"steps = {steps} is less than the {len(blocks)} blocks of max_new_tokens = "
                f"{config.max_new_tokens} and block_length = {config.block_length}: every block "
                "needs a step"
            )
        if config.confidence_threshold is not None:
            each = ops.transfer_schedule(steps, len(blocks)).tolist()
            for masks, n in zip(blocks, each, strict=True):
                if masks % n:
                    raise ValueError(
                        f"steps = {steps}: the {masks} masks of a block are not a multiple of its "
                        f"{n} steps, as alg = 'confidence_threshold' needs"
                    )

    def _check_ids(self):
        vocab = self.adapter.vocab_size
        named = [("mask_token_id", self.mask_id), ("pad_token_id", self.pad_id)]
        for name, value in named + [("eos_token_id", i) for i in self.end_ids]:
            if not 0 <= value < vocab:
                raise ValueError(f"{name} = {value}: the vocabulary has {vocab} ids")
        if self.mask_id in self.end_ids:
            raise ValueError(f"mask_token_id = {self.mask_id} is also an eos_token_id")
        if self.config.early_stop and not self.end_ids:
            raise ValueError(
                "early_stop is on and the model does not name an end id: pass eos_token_id= or "
                "early_stop=False"
            )

    def _row_keys(self):
        keys = self.config.row_keys
        if keys is None:
            return list(range(len(self.prompts)))
        keys = [int(k) for k in keys]
        for key in keys:
            if not -(2**63) <= key < 2**63:
                raise ValueError(f"row_keys holds {key}: expected 64-bit integers")
        if len(keys) != len(self.prompts):
            raise ValueError(f"row_keys holds {len(keys)} keys for {len(self.prompts)} rows")
        return keys

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
        forwards = torch.tensor([len(q.forwards) for _, q in rows])
        committed = [int((run.canvas.committed_at[q.row] >= 0).sum()) for run, q in rows]
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
            tokens_per_forward=torch.tensor(committed, dtype=torch.float64) / forwards,
            kept_suffix=[[k.cpu() for k in q.log] for _, q in rows],
            finish_reason=[run.reasons[q.row] for run, q in rows],
            timings=timings,
            trace=trace,
            history=joined_history(self.histories) if self.histories else None,
        )
