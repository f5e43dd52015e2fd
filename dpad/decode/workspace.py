"""The buffers that sequences are decoded in, kept for the next ones."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dpad.decode import device as devices
from dpad.decode.cache import KVArena
from dpad.decode.canvas import Canvas
from dpad.decode.captured_step import sequences_of
from dpad.decode.graphs import Graphs
from dpad.models.adapter import Adapter


class Workspace:
    """K/V arena, canvas, and the graphs that were captured on them.

    One decoder at a time. `capture`: whether cached steps are to be captured where that is
    possible.
    """

    def __init__(self, capture: bool = True) -> None:
        self.arena, self.graphs = KVArena(), Graphs(capture)
        self.canvas: Canvas | None = None

    def reserve(self, adapter: Adapter, rows: int, length: int, slots: int) -> None:
        """Room for `rows` sequences of up to `length` positions, with `slots` K/V slots in all.

        Raises:
            MemoryError: the K/V arena does not fit.
            RuntimeError: it would have to grow while sequences are decoded.
        """
        if not self.arena.holds(adapter, slots):
            self.graphs.drop()  # first: their memory may be needed
        self.arena.reserve(adapter, slots)
        have = self.canvas
        if have is not None and have.device == adapter.device:
            if have.rows >= rows and have.length >= length:
                return
            rows, length = max(rows, have.rows), max(length, have.length)
        self.graphs.drop()
        # Hooks write to the canvas, and they run as their caller's code.
        with torch.inference_mode(False):
            spare = sequences_of(rows) + 1  # as many as a bucket has sequences
            self.canvas = Canvas(rows, length, adapter.device, spare)

    def wait(self) -> None:
        """Until the device is done with the buffers, also after an error: the next call may come
        from another stream, and writes to what copies from the host are read from.
        """
        if self.arena.device is not None:
            devices.wait(self.arena.device)


class Workspaces:
    """The workspaces of one model: calls that run at the same time get one each."""

    def __init__(self, capture: bool = True) -> None:
        self._capture, self._closed = capture, False
        self.free: list[Workspace] = []  # those that no call uses now
        self._lock = threading.Lock()
        # (graphs that are held, why there are none) after the last run.
        self.last_graphs: tuple[int, str | None] | None = None

    @contextmanager
    def borrow(self) -> Iterator[Workspace]:
        """A workspace that nobody else uses meanwhile, with the buffers of an earlier call."""
        with self._lock:
            workspace = self.free.pop() if self.free else Workspace(self._capture)
        try:
            yield workspace
        finally:
            workspace.wait()
            with self._lock:
                graphs = workspace.graphs
                if graphs.used:
                    self.last_graphs = len(graphs), graphs.why_not or graphs.last_obstacle
                if not self._closed:
                    self.free.append(workspace)

    def close(self) -> None:
        """Frees all buffers, also those in use once they come back."""
        with self._lock:
            self._closed, self.free = True, []
