"""One pass as the device sees it: tensors only."""

from dataclasses import dataclass
from functools import cached_property

import torch

from dpad.decode.attention import Sizes
from dpad.decode.packed import sent


@dataclass
class Targets:
    """The positions that a pass predicts, and whose they are; int64.

    canvas_row and length (of the canvas) are ``[batch]``, l_offsets ``[batch + 1]``, position
    ``[logit_rows]``.
    """

    canvas_row: torch.Tensor
    l_offsets: torch.Tensor
    position: torch.Tensor
    length: torch.Tensor

    def part(self, first: int, last: int, rows: slice) -> "Targets":
        """The targets of the sequences [first, last), whose logit rows are the slice `rows`."""
        offsets = self.l_offsets[first : last + 1]
        return Targets(
            self.canvas_row[first:last],
            offsets - rows.start,
            self.position[rows],
            self.length[first:last],
        )

    def places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Canvas row and position of every target."""
        return self.spread(self.canvas_row), self.position

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """``[batch]`` values as one for each target, ``[logit_rows]``."""
        sizes, count = self.l_offsets.diff(), self.position.shape[0]
        return torch.repeat_interleave(values, sizes, output_size=count)


@dataclass
class Layout:
    """The rows of one pass; int64 tensors, on the host until `to`.

    A pass is a flat list of rows (slot, position) grouped by sequence, rows of sequence b being
    ``[q_offsets[b], q_offsets[b + 1])``. It writes K and V of its rows at ``kv_start[b] + slot`` of
    the arena and looks at the slots ``[0, n_keys[b])`` of its own range; slot -1 is never written.

    With guidance each sequence has two streams in the pass, the second one with its prompt hidden
    (`hidden_until`): the pass's tensors hold the batch twice, `target` ``[logit_rows of one
    stream]`` and `length` (of the canvas, ``[batch]``) once. `block_length` is the longest of its
    sequences' blocks, and `sizes` holds (rows, K/V start, keys) of every stream of a sequence, for
    those who need to know them on the host. `key_limit` ``[rows]``: with block-causal attention, a
    row looks at the slots below.

    Where a replan looks at more than the targets, `scan_row` are the rows that reach the head,
    grouped by `scan_offsets`; of one stream, `scan_position` is what they predict, `scan_target`
    ``[logit_rows]`` which of them are the targets', and `scan_sizes` their number by sequence.
    """

    slot: torch.Tensor
    position: torch.Tensor
    q_offsets: torch.Tensor
    n_keys: torch.Tensor
    logit_row: torch.Tensor
    l_offsets: torch.Tensor
    canvas_row: torch.Tensor
    kv_start: torch.Tensor
    hidden_until: torch.Tensor | None
    target: torch.Tensor
    length: torch.Tensor
    max_position: int
    block_length: int = 0
    sizes: Sizes | None = None
    key_limit: torch.Tensor | None = None
    scan_row: torch.Tensor | None = None
    scan_offsets: torch.Tensor | None = None
    scan_position: torch.Tensor | None = None
    scan_target: torch.Tensor | None = None
    scan_sizes: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        return self.slot.shape[0]

    @property
    def streams(self) -> int:
        return self.kv_start.shape[0] // self.length.shape[0]

    @cached_property
    def targets(self) -> Targets:
        """The `Targets` of the pass."""
        batch = self.length.shape[0]
        l_offsets = self.l_offsets[: batch + 1]
        return Targets(self.canvas_row[:batch], l_offsets, self.target, self.length)

    def to(self, device: torch.device) -> "Layout":
        """The same pass on another device."""
        return self if self.slot.device == device else sent(self, device=device)[0]
