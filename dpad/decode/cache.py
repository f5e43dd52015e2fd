"""The K/V cache: one K and one V arena per layer, in which every row has as many slots."""

import os

import torch


def _free_bytes(device):
    """Memory that an allocation on `device` can count on, or None where nobody knows."""
    if device.type == "cuda":
        # What torch keeps of freed tensors it gives out again, or back where that does not fit.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _shape(adapter):
    return adapter.num_kv_heads, adapter.head_dim, adapter.dtype, adapter.device


class KVCache:
    """K and V of every layer, each ``[num_kv_heads, rows * capacity, head_dim]``, K after RoPE.

    The slots of row i begin at ``i * capacity``. Buffers are kept between calls and grow when a
    request needs more. `made` counts how often: who has kept their addresses looks at it.
    """

    def __init__(self):
        self.layers, self.made = [], 0
        self.rows = self.capacity = 0
        self._shape = None

    def holds(self, adapter, rows, capacity):
        """Whether there is room for `rows` sequences of `capacity` slots."""
        enough = self.rows >= rows and self.capacity >= capacity
        return self._shape == _shape(adapter) and enough

    def reserve(self, adapter, rows, capacity):
        """Room for `rows` sequences of `capacity` slots; MemoryError with the bytes if too much."""
        if self.holds(adapter, rows, capacity):
            return
        size = (adapter.num_kv_heads, rows * capacity, adapter.head_dim)
        count = 2 * len(adapter.layers) * rows * adapter.num_kv_heads * capacity * adapter.head_dim
        wanted = count * adapter.dtype.itemsize
        self.release()
        free = _free_bytes(adapter.device)
        if free is not None and wanted > free:
            raise MemoryError(
                f"the K/V cache of {rows} sequences of {capacity} slots needs {wanted:,} bytes and "
                f"{free:,} are free on {adapter.device}: use micro_batch or a shorter canvas"
            )
        new = {"dtype": adapter.dtype, "device": adapter.device}
        self.layers = [(torch.zeros(size, **new), torch.zeros(size, **new)) for _ in adapter.layers]
        self._shape, self.rows, self.capacity = _shape(adapter), rows, capacity

    def release(self):
        """Frees the buffers."""
        self.layers, self._shape = [], None
        self.rows = self.capacity = 0
        self.made += 1

    @property
    def device(self):
        """Where the buffers are; None if there are none."""
        return self.layers[0][0].device if self.layers else None

    @property
    def bytes(self):
        """Size of all buffers in bytes."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)
