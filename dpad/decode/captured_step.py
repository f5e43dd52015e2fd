"""A step of few rows, for a fixed number of them, to be captured once and replayed.

A graph runs the same kernels on the same addresses, whatever they hold. So a step is captured on
inputs, canvas and K/V cache that stay where they are, for a *bucket*: a number of sequences, rows
and logit rows that a pass is padded to. Padding belongs to sequences of its own, behind the live
ones: rows of slot -1 (computed, never written) that look at one slot, and spare rows of the canvas.
Everything that changes from step to step is on the device; the host copies it there in one piece.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Self, cast

import torch

from dpad.decode import adaptive
from dpad.decode.canvas import Canvas
from dpad.decode.controls import Controls, power_of_two
from dpad.decode.layout import Layout, Targets
from dpad.decode.packed import Packed, tensors_of
from dpad.decode.step import Decision, DeviceStep


@dataclass(frozen=True)
class Bucket:
    """What a pass is padded to, each count for one of its streams."""

    sequences: int
    rows: int
    logit_rows: int
    streams: int

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """The bucket of a pass.

        Sequences go up to `sequences_of`, and each of those has room for a whole block. One more
        sequence takes the padding where there is some and no other does. Rows beside those of the
        blocks (predecessors, the kept suffix, the block before) go up in steps of at most a
        quarter.
        """
        batch, streams = layout.length.shape[0], layout.streams
        blocks, rows = layout.target.shape[0], layout.rows // streams
        sequences = sequences_of(batch)
        logit_rows = sequences * layout.block_length
        more = rows - blocks
        exact = more <= sequences  # what goes up in steps is seldom, and then padded as well
        if not exact:
            step = max(16, power_of_two(more) // 8)
            more = -(-more // step) * step
        elif more:
            more = sequences
        exact = exact and (batch, blocks, rows) == (sequences, logit_rows, logit_rows + more)
        padding = int(not exact and batch == sequences)
        return cls(sequences + padding, logit_rows + more, logit_rows, streams)


def sequences_of(n: int) -> int:
    """How many sequences n >= 1 are padded to: 1, 2, 4, 8, 12, 16, 24, 32 and so on.

    Up to 8 blocks of 32 rows a step is bound by reading the weights, and more rows cost nothing;
    beyond, they are paid for.
    """
    power = power_of_two(n)
    between = power // 4 * 3
    return between if power > 8 and n <= between else power


class Inputs:
    """The inputs of a captured step: a layout and controls at fixed addresses on the device."""

    def __init__(
        self,
        bucket: Bucket,
        canvas: Canvas,
        names: Collection[str],
        device: torch.device,
        most_k: int | None = None,
    ) -> None:
        sequences, all_sequences = bucket.sequences, bucket.sequences * bucket.streams
        all_rows, all_logits = bucket.rows * bucket.streams, bucket.logit_rows * bucket.streams
        long, double = torch.int64, torch.float64
        shapes = {
            "slot": ((all_rows,), long),
            "position": ((all_rows,), long),
            "q_offsets": ((all_sequences + 1,), long),
            "n_keys": ((all_sequences,), long),
            "logit_row": ((all_logits,), long),
            "l_offsets": ((all_sequences + 1,), long),
            "canvas_row": ((all_sequences,), long),
            "kv_start": ((all_sequences,), long),
            "hidden_until": ((all_sequences,), long),
            "target": ((bucket.logit_rows,), long),
            "length": ((sequences,), long),
            "rng": ((sequences, 3), long),
            "temperature": ((sequences,), double),
            "rule_value": ((sequences,), double),
            "quota": ((sequences,), long),
            "masks_to_leave": ((sequences,), long),
            "score_override": ((bucket.logit_rows,), double),
            "scale": ((sequences,), double),
            "top_p": ((sequences,), double),
            "top_k": ((sequences,), long),
            "order_temperature": ((sequences,), double),
            "guidance": ((sequences,), double),
            "numbers": ((sequences, adaptive.WIDTH), double),
        }
        spare = range(canvas.rows, canvas.rows + canvas.spare)
        self.bucket, self.spare = bucket, torch.tensor(spare, dtype=torch.int64, device="cpu")
        packed = Packed({name: shapes[name] for name in shapes if name in names})
        self._staging = packed.staging(device)
        self._device = torch.empty(packed.size, dtype=torch.int64, device=device)
        # The layout and the controls that stand there.
        self._filled: Layout | None = None
        self._sent: dict[str, torch.Tensor] = {}
        self._host, found = packed.views(self._staging), packed.views(self._device)
        layout: dict[str, Any] = {
            n: found.get(n) for n in Layout.__dataclass_fields__ if n in shapes
        }
        last = canvas.tokens.shape[1] - 1
        self.layout = Layout(**layout, max_position=last)
        controls: dict[str, Any] = {n: t for n, t in found.items() if n not in layout}
        self.controls = Controls(**controls, most_k=most_k)

    def fill(self, layout: Layout | None = None, controls: Controls | None = None) -> None:
        """Pads a pass to the bucket and sends it; without one, all is padding."""
        varying = {} if layout is None else tensors_of(controls)
        if layout is not None and layout is self._filled:
            for name, value in varying.items():
                if value is not self._sent[name]:
                    self._host[name][: value.shape[0]] = value
        else:
            self._pad(layout, {} if layout is None else {**tensors_of(layout), **varying})
        self._filled, self._sent = layout, varying
        self._device.copy_(self._staging, non_blocking=True)

    def _pad(self, layout: Layout | None, given: dict[str, torch.Tensor]) -> None:
        batch = 0 if layout is None else layout.length.shape[0]
        bucket = self.bucket
        padding: dict[str, Any] = {
            "slot": -1,
            "n_keys": 1,
            "length": 1,
            "quota": 1,
            "masks_to_leave": -1,
        }
        padding |= {"scale": 1.0, "top_p": 1.0, "top_k": 1, "order_temperature": 1.0}
        padding["score_override"] = torch.nan
        padding["canvas_row"] = self.spare[: bucket.sequences - batch]
        ends = {"q_offsets": bucket.rows, "l_offsets": bucket.logit_rows}
        shared = ("target", "length", *vars(self.controls))  # by the streams
        for name, to in self._host.items():
            streams = 1 if name in shared else bucket.streams
            have = given.get(name)
            if name in ends:
                _offsets(to, have, streams, ends[name])
                continue
            to = to.view(streams, -1, *to.shape[1:])
            have = to.new_empty(0) if have is None else have
            have = have.view(streams, -1, *to.shape[2:]) if have.numel() else to[:, :0]
            if name == "logit_row":
                more = bucket.rows - (0 if layout is None else layout.rows // streams)
                have = have + more * torch.arange(streams, device="cpu")[:, None]
            to[:, : have.shape[1]] = have
            to[:, have.shape[1] :] = padding.get(name, 0)


def _offsets(to: torch.Tensor, have: torch.Tensor | None, streams: int, last: int) -> None:
    """Offsets of all streams: those of the live sequences, none, and `last` for the last one."""
    one = to.new_empty((to.shape[0] - 1) // streams + 1)
    count = 1 if have is None else (have.shape[0] - 1) // streams + 1
    one[:count] = 0 if have is None else have[:count]
    one[count:] = one[count - 1]
    one[-1] = last
    to[0] = 0
    for stream in range(streams):
        first = stream * (one.shape[0] - 1) + 1
        to[first : first + one.shape[0] - 1] = one[1:] + stream * last


class CapturedStep:
    """One bucket's step. A call fills in its inputs and replays it.

    `watched`: whether what it decided is kept for `decided`; else graphs share the logits' memory.
    """

    def __init__(
        self,
        step: DeviceStep,
        inputs: Inputs,
        capture: Callable[..., Any],
        pool: Any,
        watched: bool,
    ) -> None:
        self._step, self._inputs = step, inputs
        self._watched = watched
        self._decision: Decision | None = None
        inputs.fill()  # what is run before the capture must change nothing
        self._graph = capture(self._run, pool)

    def _run(self) -> None:
        decision = self._step(self._inputs.layout, self._inputs.controls)
        if self._watched:
            self._decision = decision

    def __call__(self, layout: Layout, controls: Controls) -> None:
        self._inputs.fill(layout, controls)
        self._graph.replay()

    def decided(self, layout: Layout) -> tuple[Targets, Decision]:
        """Copies of the `Targets` and the `Decision` of the pass that was replayed last."""
        batch, count = layout.length.shape[0], layout.target.shape[0]
        fixed = self._inputs.layout
        targets = Targets(
            fixed.canvas_row[:batch].clone(),
            fixed.l_offsets[: batch + 1].clone(),
            fixed.target[:count].clone(),
            fixed.length[:batch].clone(),
        )
        decision = cast("Decision", self._decision)
        return targets, Decision(*(t[:count].clone() for t in decision))
