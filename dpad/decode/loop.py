"""The decoding loop: one pass, one commit, one status read, for every sequence that still runs."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from dpad import ops
from dpad.decode.canvas import Canvas
from dpad.decode.commit import Rule, Schedule
from dpad.decode.plan import Planner, Sequence, Targets, blocks_of
from dpad.decode.step import Controls, DeviceStep, Stop
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
    steps: list = field(default_factory=list)  # seconds since the start, per step
    positions: int = 0  # rows computed in all passes
    passes: int = 0
    replayed: int = 0  # passes that were the replay of a graph


class Decoder:
    """Runs one batch to its end."""

    def __init__(self, adapter, workspace, canvas, sequences, settings):
        self.canvas, self.settings, self.sequences = canvas, settings, sequences
        self.device = adapter.device
        self.step = DeviceStep(adapter, workspace.cache, canvas, settings)
        self.graphs = workspace.graphs
        self.first_alone = settings.published_shift and settings.cache != "none"
        lengths = [e - s for s, e in sequences[0].blocks]
        self.schedule = Schedule(settings.rule, lengths, self.first_alone)
        guided_rows = len(sequences) if settings.guidance else 0
        plan = (settings.suffix, settings.seed, settings.cache, adapter.shift)
        options = (settings.kept, guided_rows, settings.published_shift)
        self.planner = Planner(*plan, *options, workspace.cache.capacity)
        self.reasons = ["length"] * len(sequences)
        self.seconds = dict.fromkeys(("plan", "forward", "commit"), 0.0)
        self.steps, self.positions, self.replayed, self.passes = [], 0, 0, 0
        self._per_batch = None, None, None  # rows, and what follows from them
        self._found = None, None  # the last pass of cached steps, its captured step or None
        self._at = 0.0

    def run(self):
        """Decodes until every sequence has ended."""
        begun = self._at = time.perf_counter()
        live = list(self.sequences)
        while live:
            for part in self._parts(live):
                self._pass(part)
            live = self._advance(live)
            self._lap("commit")
            self.steps.append(self._at - begun)
        self.seconds["total"] = time.perf_counter() - begun
        return Run(
            canvas=self.canvas,
            sequences=self.sequences,
            reasons=self.reasons,
            seconds=self.seconds,
            steps=self.steps,
            positions=self.positions,
            passes=self.passes,
            replayed=self.replayed,
        )

    def _lap(self, name):
        now = time.perf_counter()
        self.seconds[name] += now - self._at
        self._at = now

    def _parts(self, live):
        """The sequences of each pass of a step: refreshes apart where steps are captured and nobody
        looks on, who would see two steps.
        """
        if not self.graphs.active or self.settings.on_step is not None:
            return [live]
        parts = ([q for q in live if q.refresh], [q for q in live if not q.refresh])
        return [part for part in parts if part]

    def _pass(self, live):
        """Queues one pass and its commit."""
        settings = self.settings
        layout, controls = self.planner.layout(live), self._controls(live)
        captured = None
        if not any(q.refresh for q in live):
            if self._found[0] is not layout:
                self._found = layout, self.graphs.step_for(self.step, layout, controls)
            captured = self._found[1]
        self.positions += layout.rows
        self.passes += 1
        if captured is not None:
            self._lap("plan")
            captured(layout, controls)
            self.replayed += 1
            self._lap("forward")
        else:
            layout, moved = layout.to(self.device), controls.to(self.device)
            self._lap("plan")
            logits, targets = self.step.logits(layout), layout.targets
            if settings.process_logits is not None:
                logits = settings.process_logits(live, targets, logits, self.canvas)
            self._lap("forward")
            decision = self.step.decide(layout, moved, logits)
        self.schedule.taken(live)
        if settings.on_step is not None:
            if captured is not None:
                targets, decision = captured.seen(layout)
            seen = (live, targets, *decision, self.canvas, self.step.stop)
            settings.on_step(Step(self.passes - 1, *seen))

    def _controls(self, live):
        """What the step of these sequences depends on beside its layout, on the host."""
        rows, forwards = [q.row for q in live], [len(q.forwards) for q in live]
        if self._per_batch[0] != rows:
            rng = [[self.settings.seed, q.row_key, 0] for q in live]
            rng = torch.tensor(rng, device="cpu")
            temperature = torch.full_like(rng[:, 0], self.step.temperature, dtype=torch.float64)
            self._per_batch = rows, rng, temperature
        _, rng, temperature = self._per_batch
        rng = rng.clone()  # what has not changed is the same tensor, and is not sent again
        rng[:, 2] = torch.tensor(forwards, device="cpu")
        outranks = None
        if self.first_alone and any(q.refresh for q in live):
            outranks = torch.cat([self._first_alone(q) for q in live])
        return Controls(rng, temperature, *self.schedule.of(live), outranks)

    @staticmethod
    def _first_alone(q):
        """In a refresh the block's first position outranks everything, the others nothing."""
        start, end = q.current
        score = torch.full(
            (end - start,),
            -torch.inf if q.refresh else torch.nan,
            dtype=torch.float64,
            device="cpu",
        )
        if q.refresh:
            score[0] = torch.inf
        return score

    def _check_progress(self, q):
        """Each step fills a mask or waits for its schedule: one that goes on is a fault, not work.
        A caller's function in the loop may mask positions again, as often as it likes.
        """
        most = self.schedule.lengths[q.block]
        if self.schedule.steps is not None:
            most += self.schedule.steps[q.block]
        if q.step > most and self.settings.on_step is None:
            raise RuntimeError(
                f"row {q.row}, block {q.block}: not done after {q.step} steps, which is more than "
                "its masks can take: what the device reports does not change"
            )

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
            if not done:
                self._check_progress(q)
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


def decode(adapter, workspace, prompts, new_tokens, row_keys, settings, mask_id):
    """Decodes a batch.

    Args:
        adapter: `dpad.models.adapter.Adapter`.
        workspace: `Workspace`; its buffers grow as needed.
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
    lengths = [len(p) + new_tokens for p in prompts]
    sequences = [
        Sequence(row, length, key, blocks_of(length - new_tokens, length, settings.block_length))
        for row, (length, key) in enumerate(zip(lengths, row_keys, strict=True))
    ]
    streams = 2 if settings.guidance else 1
    device = adapter.device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        workspace.reserve(adapter, len(sequences), max(lengths), streams)
        # Hooks write to the canvas, and they run as their caller's code; a later run reuses it.
        with torch.inference_mode(False):
            canvas = workspace.canvas_for(adapter, prompts, new_tokens, mask_id, settings)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            if settings.on_begin is not None:
                settings.on_begin(canvas, sequences)
            run = Decoder(adapter, workspace, canvas, sequences, settings).run()
        return workspace.released(run)
