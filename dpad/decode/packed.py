"""Small host tensors that travel to a device together."""

import torch

from dpad.decode import device as devices


class Packed:
    """Where named tensors of eight-byte elements (int64, float64) lie in one int64 buffer.

    `shapes`: name -> (shape, dtype).
    """

    def __init__(self, shapes):
        self.size, self._places = 0, {}
        for name, (shape, dtype) in shapes.items():
            end = self.size + torch.Size(shape).numel()
            self._places[name] = (slice(self.size, end), dtype, shape)
            self.size = end

    @classmethod
    def like(cls, tensors):
        """Places for the tensors of a dict."""
        return cls({name: (t.shape, t.dtype) for name, t in tensors.items()})

    def staging(self, device):
        """int64 ``[size]`` on the host, from where copies to `device` need not be waited for."""
        pin = devices.pinned(device)
        return torch.zeros(self.size, dtype=torch.int64, device="cpu", pin_memory=pin)

    def views(self, buffer):
        """The tensors in a buffer, by name."""
        return {
            name: buffer[part].view(dtype).view(shape)
            for name, (part, dtype, shape) in self._places.items()
        }


def moved(tensors, device):
    """The host's tensors of a dict on `device`, by one copy that nobody waits for."""
    packed = Packed.like(tensors)
    staging = packed.staging(device)
    for name, view in packed.views(staging).items():
        view.copy_(tensors[name])
    return packed.views(staging.to(device, non_blocking=True))
