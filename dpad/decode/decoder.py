"""The decoder: sequences join it, take steps together, and leave, each by itself."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

import torch

from dpad import ops
from dpad.decode import device as devices
from dpad.decode import forked, prefix
from dpad.decode.batches import grouped
from dpad.decode.phases import passed
from dpad.decode.plan import draw_suffix
from dpad.decode.replan import Change, apply
from dpad.decode.runner import Complete, Failures, Runner
from dpad.decode.sequence import Sequence
from dpad.decode.stats import Stats
from dpad.decode.workspace import Workspace
from dpad.models.adapter import Adapter

if TYPE_CHECKING:
    from dpad.decode.canvas import Canvas

WIDE_BYTES = 1 << 23  # of an MLP's inner rows: from these on, a step's freed memory is given back
FINISHED, NAN, INVALID = (ops.STATUS[n] for n in ("finished", "nan", "invalid"))


class NaNLogitsError(RuntimeError):
    """NaN logits at a position that was to be committed: the model's, or the logits processors'."""


class Decoder:
    """Decodes sequences on one model and `Workspace`, whose size is what was reserved in it.

    A pass that is long beside those of the others is spread over several steps, a few layers in
    each: it takes the work of `share` times their rows from each step. None: no pass is spread.
    With `share_prefix`, a block-causal sequence takes the K/V of the whole blocks that its prompt
    has in common with another's, where that one has computed them.

    `admit` gives a sequence its place, `step` takes one forward of every sequence, `retire` frees a
    place at any time between steps. A sequence that fails ends alone, with its `error`.

    Attributes:
        live: the sequences that are decoded, in the order in which they came.
        stats: `Stats`.
    """

    def __init__(
        self,
        adapter: Adapter,
        workspace: Workspace,
        share: float | None = None,
        share_prefix: bool = False,
    ) -> None:
        self.adapter, self.workspace, self.share_prefix = adapter, workspace, share_prefix
        self.canvas, self.stats = cast("Canvas", workspace.canvas), Stats()
        self.runner = Runner(adapter, workspace, share, self.stats)
        self.live: list[Sequence] = []
        self._new: list[Sequence] = []
        self._row_bytes = adapter.mlp_width * adapter.dtype.itemsize
        self._made = time.perf_counter()

    # --- who is decoded --------------------------------------------------------------------------

    def admit(self, q: Sequence) -> bool:
        """Gives a sequence its canvas row and K/V range; False if there is no room now.

        Raises:
            ValueError: it is longer than the canvas, or needs more slots than there are.
            MemoryError: what its commit rule remembers does not fit.
        """
        arena, canvas = self.workspace.arena, self.canvas
        if q.capacity > canvas.length or q.slots > arena.slots:
            raise ValueError(
                f"row {q.number}: {q.capacity} positions need {q.slots} K/V slots; the decoder has "
                f"canvases of {canvas.length} and {arena.slots} slots"
            )
        if not canvas.free_rows:
            return False
        self.runner.device_step(q.lane)
        start = arena.ranges.take(q.slots)
        if start is None:
            return False
        q.start = start
        q.row = canvas.free_rows.pop()
        self.workspace.graphs.last_obstacle = q.obstacle()
        if self.share_prefix:
            self.stats.shared += prefix.take(q, self.live, arena)
        self._new.append(q)
        self.live.append(q)
        self.runner.changed()
        return True

    def retire(
        self, q: Sequence, reason: str = "cancelled", error: Exception | None = None
    ) -> None:
        """Ends a sequence: keeps its result and frees its place."""
        if q not in self._new:
            q.result = self.canvas.take(q)
        else:
            self._new.remove(q)
        self.live.remove(q)
        self.workspace.arena.ranges.give(q.start, q.slots)
        self.canvas.free_rows.append(q.row)
        q.reason, q.error = reason, error
        self.runner.forget(q, self.live)

    def close(self) -> None:
        """Retires everybody."""
        for q in list(self.live):
            self.retire(q)

    # --- a step ----------------------------------------------------------------------------------

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """What steps run in: on the adapter's device, without gradients and autocast."""
        forked.check(self.adapter.device)
        kind = self.adapter.device.type
        cast = (
            torch.autocast(kind, enabled=False)
            if torch.is_autocast_enabled(kind)
            else nullcontext()
        )
        with devices.current(self.adapter.device), torch.inference_mode(), cast:
            yield

    def step(self) -> list[Sequence]:
        """One forward of every sequence, one status read, within `stepping`; returns those that
        have ended.
        """
        self.stats.start()
        failures, before = Failures(), self.stats.positions
        self._begin(failures)
        ready = [q for q in self.live if q not in failures] if failures else self.live
        ended = self._advance(self.runner.run(ready, failures), failures)
        if (self.stats.positions - before) * self._row_bytes >= WIDE_BYTES:
            devices.give_back(self.adapter.device)
        self.stats.lap("commit")
        self.stats.steps += 1
        return ended

    def _begin(self, failures: Failures) -> None:
        """Loads the canvases of new sequences, and draws the suffix of every new block."""
        if self._new:
            new, self._new = self._new, []
            self.runner.prepare()
            self.canvas.load(new)
            for hooks, same in grouped(new, "hooks"):
                if hooks.on_begin is not None:
                    failures.call(same, hooks.on_begin, self.canvas, same)
        fresh = [q for q in self.live if q.kept is None and q not in failures]
        self.canvas.begin_blocks([q for q in fresh if q.rule.remembers])
        for q in fresh:
            if q.hooks.kept is not None:
                q.kept = failures.call([q], q.hooks.kept, q)
        for _, same in grouped([q for q in fresh if q.hooks.kept is None], "suffix"):
            failures.call(same, draw_suffix, same)
        for q in fresh:
            q.kept_by_block.append(q.kept)
            q.kept_at[len(q.forwards)] = q.kept

    # --- after a step ----------------------------------------------------------------------------

    def _advance(self, complete: Complete, failures: Failures) -> list[Sequence]:
        """Reads the status once and moves every sequence on; returns those that have ended."""
        asked, numbers = {q: n for q, n in complete.items() if n is not None}, {}
        read = self.canvas.fetch(asked.values()) if asked else None
        if complete:
            status, head_masked = self.canvas.read_status()
        if asked:
            parts = cast("torch.Tensor", read).split([n.numel() for n in asked.values()])
            numbers = {q: part.tolist() for q, part in zip(asked, parts, strict=True)}
        now, ended = time.perf_counter() - self._made, []
        for q in list(self.live):
            reason = None
            if q in complete and q not in failures:
                q.times.append(now)
                seen = status[q.row], head_masked[q.row], numbers.get(q)
                reason = failures.call([q], self._move_on, q, *seen)
            if q in failures or reason is not None:
                self.retire(q, reason or "error", failures.get(q))
                ended.append(q)
        return ended

    def _move_on(
        self, q: Sequence, status: int, head_masked: int, numbers: list[float] | None
    ) -> str | None:
        """Takes up the status of one sequence; the reason of its end, or None."""
        if status == INVALID:
            raise RuntimeError(
                f"row {q.number}, block {q.block}, forward {len(q.forwards)}: a position, token or "
                "length was out of range on the device: nothing was returned"
            )
        if status == NAN:
            raise NaNLogitsError(
                f"{self.runner.whose_nan(q)} for row {q.number}, block {q.block}, forward "
                f"{len(q.forwards)}: nothing was returned and the model is unchanged"
            )
        q.forwards.append(q.block)
        q.spans.append(q.current)
        done = passed(q, status, head_masked)
        if q.replan is not None:
            change = q.replan.change(q, numbers, done is not None)
            if change is not None:
                return self._changed(q, change)
            if q.replan.finished:
                done = FINISHED
        if done is None:
            if q.place != q.planned:
                self.runner.changed()  # another kind of pass follows
            q.check_progress()
            return None
        end, final = q.current[1], q.replan is None or q.replan.final(q)
        more = q.advance()
        self.runner.changed()
        going = more and done != FINISHED
        # Text between this block and the next is handed out with it.
        until = q.current[0] if going else min(end, q.shown) if done == FINISHED else q.shown
        if final or not going:
            block = self.canvas.tokens[q.row, q.reported : until]
            q.reported = until
            if q.hooks.on_block is not None and q.hooks.on_block(q, block):
                return "criteria"
        if done == FINISHED and (end <= q.shown or self._holds_end(q, block)):
            return "stop"
        if not going and q.replan is not None and q.replan.ended:
            return "stop"
        return None if going else "length"

    def _changed(self, q: Sequence, change: Change) -> str | None:
        """Applies a `Change`; the reason of the sequence's end, or None."""
        apply(q, change)
        if change.source is not None:
            self.canvas.rewrite(q, change)
        self.runner.changed()
        q.check_progress()
        return change.reason

    @staticmethod
    def _holds_end(q: Sequence, tokens: torch.Tensor) -> bool:
        """Whether the end that was found in the last block is part of the result."""
        return bool(torch.isin(tokens.cpu(), torch.tensor(q.end_ids, device="cpu")).any())
