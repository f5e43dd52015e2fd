"""The decoding loop: one pass, one commit, one status read, for every sequence that still runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from dpad import ops
from dpad.decode.canvas import Canvas
from dpad.decode.commit import Rule, Schedule
from dpad.decode.filters import filter_logits
from dpad.decode.forward import guided, logits_of_pass
from dpad.decode.plan import Planner, Sequence, Targets, blocks_of
from dpad.decode.suffix import Suffix

BLOCK_DONE, FINISHED, NAN, INVALID = (
    ops.STATUS[n] for n in ("block_done", "finished", "nan", "invalid")
)


class NaNLogitsError(RuntimeError):
    """The model gave NaN logits at a position that was to be committed."""


@dataclass
class Settings:
    """Everything that a decoding run depends on, checked by the interface.

    `suppress` ids are never chosen, `exclude` ids are left out of the soft-max. `guidance` w mixes
    logits as u + (w + 1)(c - u), u those of the prompt hidden (LLaDA, arXiv 2502.09992, eq. 16);
    0 is off. `top_p` and `top_k` filter the distribution; scores are then, and with `tempered`
    always, those of the distribution that tokens are drawn from (Dream, arXiv 2508.15487), else of
    the logits as they are. `random_order` ranks by uniform draws. `published_shift`: a cached pass
    of a shift model leaves the predecessor out, and the refresh commits the block's first position
    only.
    `kept(row, block)` replaces the suffix draw, `noise(live, positions, vocab)` the Gumbel noise
    (float64 ``[logit_rows, vocab]``), and `order(live, positions, eligible)` the ranked scores
    (float64 ``[logit_rows]``).

    `whole_logits(layout, rows, canvas)` gets the logits of all rows of a pass instead, ``[rows,
    vocab]``, and returns those of its targets. `on_begin(canvas, sequences)` comes before the first
    pass. With `all_steps` a block takes all its fixed steps, with or without masks left.
    `process_logits(live, targets, logits, canvas)` gets the sequences of the pass, its `Targets`,
    their logits ``[logit_rows, vocab]`` (guidance mixed in, its own to write to) and the `Canvas`
    they were computed from, and returns the logits to decide by. `on_step(step)` gets a `Step`
    after each commit, before the status is read. `on_block(row, tokens)` gets a finished block; if
    it returns true, the row ends there.
    """

    rule: Rule
    suffix: Suffix
    block_length: int
    cache: str = "none"
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    tempered: bool = False
    early_stop: bool = True
    seed: int = 0
    fill_id: int = 0
    end_ids: tuple = ()
    suppress: tuple = ()
    exclude: tuple = ()
    round_scores: bool = False
    guidance: float = 0.0
    random_order: bool = False
    published_shift: bool = False
    kept: Callable | None = None
    noise: Callable | None = None
    order: Callable | None = None
    all_steps: bool = False
    on_begin: Callable | None = None
    whole_logits: Callable | None = None
    process_logits: Callable | None = None
    on_step: Callable | None = None
    on_block: Callable | None = None


@dataclass
class Stop:
    """What `unmask_` needs to end a sequence."""

    end_ids: torch.Tensor
    early: bool
    fill_id: int


@dataclass
class Step:
    """One step, as `Settings.on_step` sees it: all of it is on the device, nothing was read.

    `number` counts the passes of the run. `live` are the sequences, the step of each within its
    block is `step`, its forward ``len(forwards)``. `logits` ``[logit_rows, vocab]`` are those that
    decided, `token` (int64) and `probability` (float64) ``[logit_rows]`` what the model predicts at
    ``targets.position``, committed or not. Whoever writes to ``canvas.tokens`` calls `settle`.
    """

    number: int
    live: list
    targets: Targets
    logits: torch.Tensor
    token: torch.Tensor
    probability: torch.Tensor
    canvas: Canvas
    stop: Stop

    def settle(self):
        """Takes up what was written to the blocks of this pass: masks left, ends, what is traced.

        A position that holds a mask again was never committed; one that was filled counts as
        committed by this forward, with probability 1. The host's counts of masks follow: one read.
        """
        self.canvas.settle(self.targets, self.stop)
        left = self.canvas.masks_left.tolist()
        for q in self.live:
            q.masks = left[q.row]


@dataclass
class Run:
    """Result of a decoding run: the canvas, and what the host knows about each sequence."""

    canvas: Canvas
    sequences: list
    reasons: list
    seconds: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)  # seconds since the start, per pass
    positions: int = 0  # rows computed in all passes


class Decoder:
    """Runs one batch to its end."""

    def __init__(self, adapter, cache, canvas, sequences, settings):
        self.adapter, self.cache, self.canvas, self.settings = adapter, cache, canvas, settings
        self.sequences = sequences
        self.first_alone = settings.published_shift and settings.cache != "none"
        lengths = [e - s for s, e in sequences[0].blocks]
        device = adapter.device
        self.schedule = Schedule(settings.rule, lengths, device, self.first_alone)
        self.filtered = settings.tempered or settings.top_p or settings.top_k
        guided_rows = len(sequences) if settings.guidance else 0
        plan = (settings.suffix, settings.seed, settings.cache, adapter.shift, device)
        self.planner = Planner(*plan, settings.kept, guided_rows, settings.published_shift)
        ids = lambda values: torch.tensor(values, dtype=torch.int64, device=device)  # noqa: E731
        self.stop = Stop(ids(settings.end_ids), settings.early_stop, settings.fill_id)
        self.suppress, self.exclude = ids(settings.suppress), ids(settings.exclude)
        self.reasons = ["length"] * len(sequences)
        self.seconds = dict.fromkeys(("plan", "forward", "commit"), 0.0)
        self.steps, self.positions = [], 0
        self._per_batch = None

    def run(self):
        """Decodes until every sequence has ended."""
        begun = time.perf_counter()
        live = list(self.sequences)
        while live:
            at = time.perf_counter()
            layout = self.planner.layout(live)
            planned = time.perf_counter()
            logits = self._forward(layout)
            if self.settings.process_logits is not None:
                logits = self.settings.process_logits(live, layout.targets, logits, self.canvas)
            forwarded = time.perf_counter()
            self._commit(layout, logits)
            live = self._advance(live)
            done = time.perf_counter()
            for name, t in zip(
                self.seconds, (planned - at, forwarded - planned, done - forwarded), strict=True
            ):
                self.seconds[name] += t
            self.steps.append(done - begun)
        self.seconds["total"] = time.perf_counter() - begun
        return Run(
            self.canvas, self.sequences, self.reasons, self.seconds, self.steps, self.positions
        )

    def _forward(self, layout):
        self.positions += layout.rows
        tokens = self.canvas.gather(layout)
        if self.settings.whole_logits is not None:
            rows = torch.arange(layout.rows, device=tokens.device)
            every = replace(layout, logit_row=rows, l_offsets=layout.q_offsets)
            logits = logits_of_pass(self.adapter, tokens, every, self.cache)
            return self.settings.whole_logits(layout, logits, self.canvas)
        logits = logits_of_pass(self.adapter, tokens, layout, self.cache)
        if self.settings.guidance:
            logits = guided(logits, self.settings.guidance)
        return logits

    def _batch_tensors(self, live):
        """rng ``[batch, 3]`` and temperature ``[batch]``, remade when the batch changes."""
        key = tuple(q.row for q in live)
        if self._per_batch is None or self._per_batch[0] != key:
            device = self.adapter.device
            rng = torch.tensor([[self.settings.seed, q.row_key, len(q.forwards)] for q in live])
            value = self.settings.temperature
            value = float(value > 0) if self.filtered else value  # the filter divides by it
            temperature = torch.full((len(live),), value, dtype=torch.float64, device=device)
            self._per_batch = (key, rng.to(device), temperature)
        return self._per_batch[1:]

    def _commit(self, layout, logits):
        settings, targets = self.settings, layout.targets
        rng, temperature = self._batch_tensors(layout.live)
        decisive = logits
        if self.filtered:
            limits = (settings.temperature, settings.top_p, settings.top_k)
            decisive = filter_logits(logits, *limits, self.suppress)
        noise = None
        if settings.noise is not None:
            noise = settings.noise(layout.live, targets.position, logits.shape[-1])
        token, *scores = ops.confidence(
            decisive,
            targets.l_offsets,
            targets.position,
            rng,
            temperature,
            self.suppress,
            self.exclude,
            noise,
            settings.round_scores,
        )
        ranked = self._ranked(layout.live, targets, rng, scores)
        amount, quota = self.schedule.of(layout.live, self.canvas.masks_left)
        self.canvas.commit(
            targets, token, ranked, scores[0], settings.rule, amount, quota, self.stop
        )
        self.schedule.taken(layout.live)
        rng[:, 2] += 1
        if settings.on_step is not None:
            seen = (layout.live, targets, logits, token, scores[0], self.canvas, self.stop)
            settings.on_step(Step(len(self.steps), *seen))

    def _ranked(self, live, targets, rng, scores):
        """What the commit rule ranks: one of the model's scores, or draws."""
        settings, rule = self.settings, self.settings.rule
        if settings.order is not None:
            return settings.order(live, targets.position, self.canvas.eligible(targets))
        if settings.random_order or rule.score == "uniform":
            return ops.uniform(rng, targets.l_offsets, targets.position)
        probability, margin, entropy = scores
        ranked = {
            "probability": probability,
            "margin": margin,
            "entropy": entropy,
            "negative_entropy": -entropy,
        }[rule.score]
        if rule.order_temperature > 0:
            # The n best of score / t + Gumbel noise are n draws without replacement from
            # softmax(score / t) (arXiv 1903.06059).
            drawn = ops.uniform(rng, targets.l_offsets, targets.position)
            ranked = ranked / rule.order_temperature - torch.log(-torch.log(drawn))
        if self.first_alone and any(q.refresh for q in live):
            return self._first_alone(live, targets, ranked)
        return ranked

    def _first_alone(self, live, targets, ranked):
        """In a refresh the block's first position outranks everything, the others nothing."""
        refresh = torch.tensor([q.refresh for q in live], device=ranked.device)
        refresh = torch.repeat_interleave(refresh, targets.l_offsets.diff())
        first = torch.zeros_like(refresh)
        first[targets.l_offsets[:-1]] = True
        return torch.where(refresh, torch.where(first, torch.inf, -torch.inf), ranked)

    def _advance(self, live):
        """Reads the status once and moves every sequence on; returns those that still run."""
        status = self.canvas.read_status()
        for q in live:
            if status[q.row] == INVALID:
                raise RuntimeError(
                    f"row {q.row}, block {q.block}, forward {len(q.forwards)}: a position, token "
                    "or length was out of range on the device: nothing was returned"
                )
            if status[q.row] == NAN:
                raise NaNLogitsError(
                    f"the model gave NaN logits for row {q.row}, block {q.block}, forward "
                    f"{len(q.forwards)}: nothing was returned and the model is unchanged"
                )
        running = []
        for q in live:
            q.forwards.append(q.block)
            q.step += 1
            block = q.current
            done = status[q.row] in (BLOCK_DONE, FINISHED)
            if self.settings.all_steps:
                done = q.step >= self.schedule.steps[q.block]
            if done:
                if status[q.row] == FINISHED:
                    self.reasons[q.row] = "stop"
                more = q.advance() and status[q.row] != FINISHED
                if self.settings.on_block is not None:
                    tokens = self.canvas.tokens[q.row, block[0] : block[1]]
                    if self.settings.on_block(q.row, tokens):
                        self.reasons[q.row], more = "criteria", False
                if not more:
                    continue
            running.append(q)
        return running


def decode(adapter, cache, prompts, new_tokens, row_keys, settings, mask_id):
    """Decodes a batch.

    Args:
        adapter: `dpad.models.adapter.Adapter`.
        cache: `KVCache`; grown as needed.
        prompts: one int64 tensor per sequence, without padding; may be empty.
        new_tokens: length of the generated part.
        row_keys: one int per sequence, what its random draws are keyed by.
        settings: `Settings`.
        mask_id: id of the mask token.

    Returns:
        `Run`.

    Raises:
        MemoryError: the K/V cache does not fit.
        NaNLogitsError: at the first status read after NaN logits.
    """
    canvas = Canvas(prompts, new_tokens, mask_id, adapter.device)
    sequences = [
        Sequence(row, length, key, blocks_of(length - new_tokens, length, settings.block_length))
        for row, (length, key) in enumerate(zip(canvas.lengths, row_keys, strict=True))
    ]
    streams = 2 if settings.guidance else 1
    cache.reserve(adapter, streams * len(sequences), max(canvas.lengths))
    with torch.inference_mode(), torch.autocast(adapter.device.type, enabled=False):
        if settings.on_begin is not None:
            settings.on_begin(canvas, sequences)
        return Decoder(adapter, cache, canvas, sequences, settings).run()
