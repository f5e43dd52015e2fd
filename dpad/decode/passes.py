"""A pass that is run now, all at once or a few layers at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

import torch

from dpad.decode.controls import Controls
from dpad.decode.forward import Layers
from dpad.decode.layout import Layout, Targets
from dpad.decode.packed import sent
from dpad.decode.step import Decision, DeviceStep

if TYPE_CHECKING:
    from dpad.decode.sequence import Sequence


@dataclass
class Pass:
    """A pass of sequences of one lane, on the device; `credit`: rows of work that it may do."""

    live: list["Sequence"]
    step: DeviceStep
    layout: Layout
    controls: Controls
    layers: Layers | None = None
    credit: float = 0.0
    scanned: torch.Tensor | None = None  # logits of all that replans look at

    @classmethod
    def begin(
        cls, live: list["Sequence"], step: DeviceStep, layout: Layout, controls: Controls
    ) -> Self:
        """A pass of which nothing has run; layout and controls come from the host."""
        if step.device.type != "cpu":
            layout, controls = sent(layout, controls, device=step.device)
        return cls(live, step, layout, controls)

    def run(self, credit: float | None = None) -> bool:
        """Runs as many layers as `credit` more rows of work are worth, or all; whether none is
        left.
        """
        if self.layers is None:
            self.layers = self.step.layers(self.layout)
        if credit is None:
            return self.layers.run()
        self.credit += credit
        of_a_layer = self.layout.rows / len(self.step.adapter.layers)
        count = int(self.credit / of_a_layer)
        self.credit -= count * of_a_layer
        return self.layers.run(count)

    def model_logits(self) -> torch.Tensor:
        """The model's own of the targets, ``[logit_rows, vocab]``, guidance mixed in."""
        layers = cast("Layers", self.layers)
        logits = self.step.logits(layers, self.layout, self.controls, self.live)
        if self.layout.scan_target is not None:
            self.scanned, logits = logits, logits[self.layout.scan_target]
        return logits

    def logits(self) -> torch.Tensor:
        """Those that decide, ``[logit_rows, vocab]``, after the caller's own code."""
        logits, hooks = self.model_logits(), self.step.lane.hooks
        if hooks is None or hooks.process_logits is None or not logits.shape[0]:
            return logits
        return hooks.process_logits(self.live, self.layout.targets, logits, self.step.canvas)

    def decide(self, logits: torch.Tensor) -> tuple[Targets, Decision]:
        """Commits; the `Targets` and the `Decision`."""
        decision = self.step.decide(self.layout, self.controls, logits, self.live)
        return self.layout.targets, decision

    def scan_of(self, number: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What the replan of a sequence of the pass scans, see `dpad.decode.replan.Seen`."""
        sizes, position = self.layout.scan_sizes, self.layout.scan_position
        if self.scanned is None or sizes is None or position is None:
            return None
        if not self.live[number].scans:
            return None
        rows = slice(sum(sizes[:number]), sum(sizes[: number + 1]))
        return self.scanned[rows], position[rows]
