"""Small host tensors that travel to a device together."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

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


class Packed:
    """Where named tensors of eight-byte elements (int64, float64) lie in one int64 buffer.

    `shapes`: name -> (shape, dtype).
    """

    def __init__(self, shapes: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> None:
        self.size = 0
        self._places: dict[str, tuple[slice, torch.dtype, Sequence[int]]] = {}
        for name, (shape, dtype) in shapes.items():
            end = self.size + torch.Size(shape).numel()
            self._places[name] = (slice(self.size, end), dtype, shape)
            self.size = end

    @classmethod
    def like(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Places for the tensors of a dict."""
        return cls({name: (t.shape, t.dtype) for name, t in tensors.items()})

    def staging(self, device: torch.device) -> torch.Tensor:
        """int64 ``[size]`` on the host, from where copies to `device` need not be waited for."""
        pin = devices.pinned(device)
        return torch.zeros(self.size, dtype=torch.int64, device="cpu", pin_memory=pin)

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in a buffer, by name."""
        return {
            name: buffer[part].view(dtype).view(shape)
            for name, (part, dtype, shape) in self._places.items()
        }


def moved(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The host's tensors of a dict on `device`, by one copy that nobody waits for."""
    packed = Packed.like(tensors)
    staging = packed.staging(device)
    for name, view in packed.views(staging).items():
        view.copy_(tensors[name])
    return packed.views(staging.to(device, non_blocking=True))
