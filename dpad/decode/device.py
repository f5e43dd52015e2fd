"""The one room of the decoder that spells a device: streams, pinned memory, free memory, graphs."""

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

# Where passes of many rows go to torch's attention, see `dpad.decode.attention`.
WIDE_ATTENTION = {"cuda"}


def pinned(device: torch.device) -> bool:
    """Whether copies between the host and `device` need page-locked memory not to be waited for."""
    return device.type == "cuda"


def current(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which `device` is the current one of its type."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def wait(device: torch.device) -> None:
    """Until everything that was queued on the current stream of `device` is done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def free_bytes(device: torch.device) -> int | None:
    """Memory that an allocation on `device` can count on, or None where nobody knows."""
    if device.type == "cuda":
        # What torch keeps of freed tensors it gives out again, or back where that does not fit.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _trimmer() -> Any:
    """glibc's malloc_trim, or None with another C library."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


_TRIM = _trimmer()


def give_back(device: torch.device) -> None:
    """Gives the memory of freed tensors on `device` back to the system, where the C library keeps
    it: the buffers of wide passes do not fill each other's gaps, and what is kept grows.
    """
    if device.type == "cpu" and _TRIM is not None:
        _TRIM(0)


class CudaGraph:
    """The work that `function` queues on the current device, recorded; `replay` queues it again."""

    def __init__(self, function: Callable[[], None], pool: tuple[Any, torch.cuda.Stream]) -> None:
        memory, stream = pool
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # libraries allocate what they need in the first calls
            for _ in range(2):
                function()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        options = {"pool": memory, "stream": stream, "capture_error_mode": "thread_local"}
        # The outer one, for torch leaves the stream of a capture that fails the current one.
        with torch.cuda.stream(current), torch.cuda.graph(graph, **options):
            function()
        self.replay = graph.replay

    @staticmethod
    def pool() -> tuple[Any, torch.cuda.Stream]:
        """What graphs that never run at the same time share: memory, and the stream that cuBLAS
        keeps its scratch memory for.
        """
        return torch.cuda.graph_pool_handle(), torch.cuda.Stream()


CAPTURES = {"cuda": CudaGraph}  # type of device -> what records a step there
