"""The buffers of a run, kept for the next one."""

import threading
from contextlib import contextmanager

import torch

from dpad.decode.cache import KVCache
from dpad.decode.canvas import Canvas
from dpad.decode.captured_step import sequences_of
from dpad.decode.graphs import Graphs


class Workspace:
    """K/V cache, and what captured steps need: their graphs and a canvas that stays in its place.

    One run at a time. `capture`: whether cached steps are to be captured where that is possible.
    """

    def __init__(self, capture=True):
        self.cache, self.graphs = KVCache(), Graphs(capture)
        self._canvas, self._size = None, (0, 0)

    def reserve(self, adapter, rows, length, streams=1):
        """Room for `rows` sequences of `length` positions, with `streams` cache rows each.

        Raises:
            MemoryError: the K/V cache does not fit.
        """
        if not self.cache.holds(adapter, streams * rows, length):
            self.graphs.drop()  # first: their memory may be needed
        self.cache.reserve(adapter, streams * rows, length)
        size = max(rows, self._size[0]), max(length, self._size[1])
        have = self._canvas
        if size != self._size or (have is not None and have.tokens.device != adapter.device):
            self._canvas, self._size = None, size
            self.graphs.drop()

    def canvas_for(self, adapter, prompts, new_tokens, mask_id, settings):
        """The canvas of a run within what was reserved: the one that stays, if steps are captured.

        Prompts are int64 tensors, one per sequence.
        """
        if not self.graphs.prepare(adapter, self.cache, settings):
            return Canvas.of(prompts, new_tokens, mask_id, adapter.device)
        if self._canvas is None:
            rows, length = self._size
            spare = sequences_of(rows) + 1  # as many as a bucket has sequences
            self._canvas = Canvas(rows, length, adapter.device, spare)
        return self._canvas.load(prompts, new_tokens, mask_id)

    def wait(self):
        """Until the device is done with the buffers, also after an error: the next call may come
        from another stream, and writes to what copies from the host are read from.
        """
        device = self.cache.device
        if device is not None and device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()

    def released(self, run):
        """The run, without anything that the next one overwrites."""
        if run.canvas is self._canvas:
            run.canvas = run.canvas.copied()
        return run


class Workspaces:
    """The workspaces of one model: calls that run at the same time get one each."""

    def __init__(self, capture=True):
        self._capture, self._closed = capture, False
        self.free = []  # those that no call uses now
        self._lock = threading.Lock()
        self.seen = None  # (graphs that are held, why there are none) after the last run

    @contextmanager
    def one(self):
        """A workspace that nobody else uses meanwhile, with the buffers of an earlier call."""
        with self._lock:
            workspace = self.free.pop() if self.free else Workspace(self._capture)
        try:
            yield workspace
        finally:
            workspace.wait()
            with self._lock:
                if workspace.graphs.asked:
                    self.seen = len(workspace.graphs), workspace.graphs.why_not
                if not self._closed:
                    self.free.append(workspace)

    def close(self):
        """Frees all buffers, also those in use once they come back."""
        with self._lock:
            self._closed, self.free = True, []
