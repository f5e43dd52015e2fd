"""Small host tensors that travel to a device together."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Self

import torch

from dpad.decode import device as devices


def int64s(values: Iterable[int]) -> torch.Tensor:
    """int64 ``[n]`` on the host from an iterable of n >= 1 numbers, whatever torch's default device
    is; many times as fast as `torch.tensor`, which asks each for its type.
    """
    return torch.frombuffer(array("q", values), dtype=torch.int64)


def float64s(values: Iterable[float]) -> torch.Tensor:
    """float64 ``[n]``, as `int64s`."""
    return torch.frombuffer(array("d", values), dtype=torch.float64)


def columns(rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """int64 ``[n]`` on the host for each column of n >= 1 rows of numbers."""
    block, size = array("q", chain.from_iterable(zip(*rows, strict=True))), len(rows)
    places = range(0, len(block) * block.itemsize, size * block.itemsize)
    return [torch.frombuffer(block, dtype=torch.int64, count=size, offset=at) for at in places]


class Packed:
    """Where named tensors of eight-byte elements (int64, float64) lie in one int64 buffer.

    `shapes`: name -> (shape, dtype).
    """

    def __init__(self, shapes: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> None:
        self._shapes = dict(shapes)
        self._sizes = [torch.Size(shape).numel() for shape, _ in shapes.values()]
        self.size = sum(self._sizes)

    @classmethod
    def like(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Places for the tensors of a dict."""
        return cls({name: (t.shape, t.dtype) for name, t in tensors.items()})

    def staging(self, device: torch.device) -> torch.Tensor:
        """int64 ``[size]`` on the host, from where copies to `device` need not be waited for."""
        pin = devices.pinned(device)
        return torch.empty(self.size, dtype=torch.int64, device="cpu", pin_memory=pin)

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in a buffer, by name."""
        parts = zip(self._shapes.items(), buffer.split_with_sizes(self._sizes), strict=True)
        return {name: part.view(dtype).view(shape) for (name, (shape, dtype)), part in parts}


def moved(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The host's tensors of a dict on `device`, by one copy that nobody waits for."""
    packed = Packed.like(tensors)
    staging = packed.staging(device)
    torch.cat([t.flatten().view(torch.int64) for t in tensors.values()], out=staging)
    return packed.views(staging.to(device, non_blocking=True))


def tensors_of(fields: object) -> dict[str, torch.Tensor]:
    """The tensors of a dataclass, by name."""
    return {n: t for n, t in vars(fields).items() if isinstance(t, torch.Tensor)}


def sent(*parts: Any, device: torch.device) -> list[Any]:
    """Dataclasses of the host with their tensors on `device`, by one copy; no two have a name in
    common.
    """
    found = [tensors_of(part) for part in parts]
    there = moved({n: t for tensors in found for n, t in tensors.items()}, device)
    made = zip(parts, found, strict=True)
    return [replace(part, **{n: there[n] for n in tensors}) for part, tensors in made]
