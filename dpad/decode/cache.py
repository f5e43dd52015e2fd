"""The K/V arena: one K and one V tensor per layer, and a contiguous range of slots per sequence.

A diffusion sequence knows its greatest number of slots when it begins, so it gets one range as long
as itself: there are no pages, and nothing is ever moved.
"""

from bisect import insort
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpad.decode import device as devices
from dpad.decode import forked
from dpad.models.adapter import Adapter


class Ranges:
    """Which of `size` slots are free: (start, length) of every gap, ascending."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.gaps: list[tuple[int, int]] = [(0, size)] if size else []

    @property
    def free(self) -> int:
        """Free slots, in all gaps together."""
        return sum(length for _, length in self.gaps)

    def take(self, length: int) -> int | None:
        """The first slot of a range of `length`, or None where no gap is as long."""
        for number, (start, gap) in enumerate(self.gaps):
            if gap >= length:
                rest = [(start + length, gap - length)] if gap > length else []
                self.gaps[number : number + 1] = rest
                return start
        return None

    def give(self, start: int, length: int) -> None:
        """Takes back a range that was given out."""
        insort(self.gaps, (start, length))
        joined: list[tuple[int, int]] = []
        for gap in self.gaps:
            if joined and sum(joined[-1]) == gap[0]:
                gap = (joined[-1][0], joined.pop()[1] + gap[1])
            joined.append(gap)
        self.gaps = joined


def slot_bytes(adapter: Adapter) -> int:
    """Bytes of K and V of one slot in all layers."""
    values = 2 * len(adapter.layers) * adapter.num_kv_heads * adapter.head_dim
    return values * adapter.dtype.itemsize


def _shape(adapter: Adapter) -> tuple[Any, ...]:
    layers = len(adapter.layers)
    return layers, adapter.num_kv_heads, adapter.head_dim, adapter.dtype, adapter.device


class KVArena:
    """K and V of every layer, each ``[num_kv_heads, slots, head_dim]``, K after RoPE.

    Buffers are kept between calls and grow when a request needs more, which is refused while a
    sequence holds a range. `generation` counts how often they were made: who has kept their
    addresses looks at it.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.generation, self.ranges = 0, Ranges()
        self._shape: tuple[Any, ...] | None = None

    @property
    def slots(self) -> int:
        """Slots of the arena."""
        return self.ranges.size

    def holds(self, adapter: Adapter, slots: int) -> bool:
        """Whether the buffers fit the model and have so many slots."""
        return self._shape == _shape(adapter) and self.slots >= slots

    def reserve(self, adapter: Adapter, slots: int) -> None:
        """Room for `slots` slots.

        Raises:
            MemoryError: too much, with the bytes.
            RuntimeError: it would have to grow while ranges are held; a forked child.
        """
        forked.check(adapter.device)
        if self.holds(adapter, slots):
            return
        if self.ranges.free != self.slots:
            raise RuntimeError(
                f"the K/V arena of {self.slots} slots cannot grow to {slots}: sequences hold "
                f"{self.slots - self.ranges.free} of them"
            )
        self.release()
        wanted, free = slots * slot_bytes(adapter), devices.free_bytes(adapter.device)
        if free is not None and wanted > free:
            raise MemoryError(
                f"K and V of {slots} slots need {wanted:,} bytes and {free:,} are free on "
                f"{adapter.device}: use micro_batch, a shorter canvas or a smaller max_tokens"
            )
        size = adapter.num_kv_heads, slots, adapter.head_dim
        new = partial(torch.zeros, size, dtype=adapter.dtype, device=adapter.device)
        self.layers = [(new(), new()) for _ in adapter.layers]
        self._shape, self.ranges = _shape(adapter), Ranges(slots)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copies K and V of `count` slots from slot `source` on to those from `target` on."""
        for pair in self.layers:
            for cache in pair:
                cache[:, target : target + count] = cache[:, source : source + count]

    def release(self) -> None:
        """Frees the buffers."""
        self.layers, self._shape, self.ranges = [], None, Ranges()
        self.generation += 1

    @property
    def device(self) -> torch.device | None:
        """Where the buffers are; None if there are none."""
        return self.layers[0][0].device if self.layers else None

    @property
    def bytes(self) -> int:
        """Size of all buffers in bytes."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)
