"""A CUDA graph's stand-in for any device: operator calls, recorded once and run again.

It keeps to what a capture keeps to. The host's code runs once; a replay runs the recorded operators
on the recorded memory and writes what they return to where it was. Reading a value, shapes that
depend on values and tensors made from the host's values are errors, as they are in a capture; so
are two captures at a time, memory that was freed since, and a pool whose graphs are all gone.
"""

import threading
import weakref
from contextlib import contextmanager

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

_BY_VALUES = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
_CAPTURING = threading.Lock()


@contextmanager
def alone():
    """While a capture is under way; a second one is an error."""
    if not _CAPTURING.acquire(blocking=False):
        raise RuntimeError("another capture is under way")
    try:
        yield
    finally:
        _CAPTURING.release()


def reads(func, args, kwargs):
    """Whether the result, or its shape, cannot be known before values are looked at."""
    name = name_of(func)
    if name == "index":
        return any(isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in args[1])
    by_values = name == "is_nonzero" or any(tag in func.tags for tag in _BY_VALUES)
    return by_values and not kwargs.get("output_size")


def name_of(func):
    return func.name().split("::")[1].split(".")[0]


def storage_of(tensor):
    return tensor.untyped_storage()._cdata


class Pool:
    """Counts the graphs that share memory. torch frees it with the last one and asserts that nobody
    comes back to it.
    """

    def __init__(self):
        self.graphs, self.used = 0, False

    def enter(self, graph):
        if self.used and not self.graphs:
            raise RuntimeError("the pool's graphs are gone, and its memory with them")
        self.graphs, self.used = self.graphs + 1, True
        weakref.finalize(graph, self._leave)

    def _leave(self):
        self.graphs -= 1


class _Outside:
    """Memory that a graph uses and does not own: only where and how a tensor lies in it is kept."""

    def __init__(self, tensor):
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._dtype, self._like = tensor.dtype, tensor.device
        self._place = tensor.storage_offset(), tensor.shape, tensor.stride()

    def tensor(self):
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        if storage is None:
            raise RuntimeError("a graph is replayed on memory that was freed")
        return torch.empty(0, dtype=self._dtype, device=self._like).set_(storage, *self._place)


class Recording(TorchDispatchMode):
    """The calls within a ``with`` statement."""

    def __init__(self):
        super().__init__()
        self._calls, self._own = [], set()  # storages that were made by recorded calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if name_of(func) == "lift_fresh" or reads(func, args, kwargs):
            raise RuntimeError(f"operation not permitted when a step is captured: {func.name()}")
        out = func(*args, **kwargs)
        given = {storage_of(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self._own |= {storage_of(t) for t in made} - given
        kept = tree_map_only(torch.Tensor, self._kept, (args, kwargs))
        self._calls.append((func, *kept, [t if storage_of(t) not in given else None for t in made]))
        return out

    def _kept(self, tensor):
        return tensor if storage_of(tensor) in self._own else _Outside(tensor)

    def replay(self):
        """Runs the calls again."""
        for func, args, kwargs, made in self._calls:
            with _disable_current_modes():
                args, kwargs = tree_map_only(_Outside, _Outside.tensor, (args, kwargs))
            again = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, torch.Tensor)]
            for old, new in zip(made, again, strict=True):
                if old is not None:
                    old.copy_(new)


class RecordedCalls(Recording):
    """The calls of `function`; takes the place of `dpad.decode.graphs.CudaGraph` in tests."""

    def __init__(self, function, pool=None):
        super().__init__()
        with alone():
            function()  # libraries may allocate: a graph is warmed up as well
            if pool is not None:
                pool.enter(self)
            with self:
                function()

    @staticmethod
    def pool():
        """Memory that graphs which never run at the same time share."""
        return Pool()
