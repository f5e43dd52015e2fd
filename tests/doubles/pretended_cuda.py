"""A pretended CUDA device: its tensors say cuda:0, and the CPU's kernels compute them at once.

To torch they are meta tensors; the memory behind them is kept here, by storage. So devices cannot
be mixed, nobody looks at a value unnoticed, and a capture, which runs operators on shapes alone,
computes nothing: what it makes holds garbage until the first replay. So does a copy to the host
until it is waited for; what a copy to the device is taken from must stay as it is until then.
"""

from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dpad import ops
from dpad.ops import _dispatch
from tests.doubles.recorded_calls import Pool, Recording, alone, reads, storage_of

CUDA, HOST = torch.device("cuda", 0), torch.device("cpu")
_GARBAGE = 255  # a byte: NaN, -1, true
_COPY, _TO = torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default


@contextmanager
def pretended_cuda():
    """Pretends for this thread; gives the `PretendedCuda`. Afterwards all is as it was."""
    device, has_kernel = PretendedCuda(), ops.has_kernel
    kernels = {name: found | {"cuda"} for name, found in _dispatch.KERNELS.items()}
    own = lambda op, kind: has_kernel(op, "cpu" if kind == "cuda" else kind)  # noqa: E731
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **device.functions()))
        stack.enter_context(mock.patch.object(ops, "has_kernel", own))
        stack.enter_context(mock.patch.dict(_dispatch.KERNELS, kernels))
        stack.enter_context(device)
        stack.enter_context(_Names(device))
        yield device


class PretendedCuda(TorchDispatchMode):
    """Runs the operators on tensors of the device.

    `reads` counts how often the host waited for values, `sends` the copies to the device, and
    `slow_sends` those of them that it waited for, as they were not from pinned memory or not called
    non-blocking; `captures` and `replays` those of graphs. `stream` is the current one.
    """

    def __init__(self):
        super().__init__()
        self.reads = self.sends = self.slow_sends = self.captures = self.replays = 0
        self.stream, self.capturing = _Stream(self), False
        self._memory = {}  # storage of a meta tensor: storage on the host
        self._pinned = {}  # storage: a tensor that keeps it
        self._arriving, self._leaving = [], []  # (tensor of the host, value) of unfinished copies

    def functions(self):
        """Those of `torch.cuda` that are replaced, by name."""
        return {
            "CUDAGraph": lambda: _Graph(self),
            "Stream": lambda: _Stream(self),
            "current_stream": lambda device=None: self.stream,
            "device": lambda device: nullcontext(),
            "graph": self._capture,
            "graph_pool_handle": Pool,
            "mem_get_info": lambda device=None: (1 << 36, 1 << 37),
            "memory_allocated": lambda device=None: 0,
            "memory_reserved": lambda device=None: 0,
            "stream": self._on_stream,
        }

    @contextmanager
    def _on_stream(self, stream):
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def _capture(self, graph, pool, stream, capture_error_mode):
        """As torch's: it waits first, and leaves its stream the current one if a capture fails."""
        self.wait()
        pool.enter(graph)
        before, self.stream, self.capturing = self.stream, stream, True
        try:
            with alone(), graph:
                yield
        finally:
            self.capturing = False
        self.stream = before
        self.captures += 1

    def wait(self):
        """Until all is done."""
        self.refuse_in_captures("a wait")
        self.reads += bool(self._arriving)
        for tensor, value in self._arriving:
            tensor.copy_(value)
        written = any(not torch.equal(*pair) for pair in self._leaving)
        self._arriving, self._leaving = [], []
        if written:
            raise RuntimeError("pinned memory was written to before a copy from it was done")

    def refuse_in_captures(self, what):
        if self.capturing:
            raise RuntimeError(f"operation not permitted when a stream is capturing: {what}")

    def pin(self, tensor):
        """The tensor, whose memory copies may be taken from while the host goes on."""
        if tensor.is_meta:
            raise RuntimeError("memory of the device cannot be pinned")
        self._pinned[storage_of(tensor)] = tensor
        return tensor

    def memory(self, tensor):
        """A tensor of the device as one of the host in the same memory; others as they are."""
        if not tensor.is_meta:
            return tensor
        place = tensor.storage_offset(), tensor.shape, tensor.stride()
        storage = self._memory[storage_of(tensor)]
        return torch.empty(0, dtype=tensor.dtype, device=HOST).set_(storage, *place)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there, device = any(t.is_meta for t in tensors), kwargs.get("device")
        if not there and (device is None or device.type != "meta"):
            return func(*args, **kwargs)
        if func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        if func is _COPY and args[0].is_meta != args[1].is_meta:
            return self._copied(*args, **kwargs)
        if func is _TO and not there:
            self._sends(args[0], **kwargs)
        elif any(not t.is_meta and t.dim() for t in tensors):
            raise RuntimeError(f"{func.name()}: tensors on cuda:0 and on the CPU")
        elif reads(func, args, kwargs) or (func is _TO and device == HOST):
            self.refuse_in_captures(func.name())
            self.reads += 1
        return self._run(func, args, kwargs)

    def _run(self, func, args, kwargs):
        """What an operator returns: a tensor of the device, unless it is asked for another."""
        alias = any(r.alias_info is not None for r in func._schema.returns)
        if self.capturing or (alias and not func._schema.is_mutable):  # shapes alone, or a view
            out = func(*args, **kwargs)
            return out if alias else tree_map_only(torch.Tensor, self._garbage, out)
        host_args, host_kwargs = tree_map_only(torch.Tensor, self.memory, (args, kwargs))
        device = kwargs.get("device")
        if device is not None:
            host_kwargs["device"] = HOST
        out = func(*host_args, **host_kwargs)
        if alias:
            return args[0]
        return out if device == HOST else tree_map_only(torch.Tensor, self._new, out)

    def _new(self, value):
        """A tensor of the device with this value, whose memory it takes over."""
        value = value.clone() if value.storage_offset() else value
        layout = value.shape, value.stride()
        out = torch.empty_strided(*layout, dtype=value.dtype, device="meta")
        self._memory[storage_of(out)] = value.untyped_storage()
        return out

    def _garbage(self, made):
        size = (made.untyped_storage().nbytes(),)
        value = torch.full(size, _GARBAGE, dtype=torch.uint8, device=HOST)
        self._memory[storage_of(made)] = value.untyped_storage()
        return made

    def _copied(self, to, source, non_blocking=False):
        """A copy from one device to the other."""
        if to.is_meta:
            self._sends(source, non_blocking)
            self.memory(to).copy_(source)
        else:
            self.refuse_in_captures("a copy to the host")
            if any(tensor is to for tensor, _ in self._arriving):
                raise RuntimeError("a second copy to the same memory, and nobody waited for one")
            to.view(torch.uint8).fill_(_GARBAGE)
            self._arriving.append((to, self.memory(source).clone()))
            if not non_blocking:
                self.wait()
        return to

    def _sends(self, source, non_blocking=False, **_):
        self.refuse_in_captures("a copy from the host")
        self.sends += 1
        if non_blocking and storage_of(source) in self._pinned:
            self._leaving.append((source, source.clone()))
        else:
            self.slow_sends += 1


class _Names(TorchFunctionMode):
    """What Python says and hears: meta tensors are on cuda:0, what is for cuda is for meta."""

    def __init__(self, device):
        super().__init__()
        self._device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            if func == torch.Tensor.device.__get__:
                return CUDA
            if func == torch.Tensor.data_ptr:
                return self._device.memory(args[0]).data_ptr()
        if func in _device._device_constructors() and kwargs.get("device") is None:
            kwargs["device"] = _device.CURRENT_DEVICE  # torch's own would come too late
        args, kwargs = [_heard(a) for a in args], {name: _heard(a) for name, a in kwargs.items()}
        pinned = kwargs.pop("pin_memory", False)
        if func in (torch.tensor, torch.as_tensor) and kwargs["device"] == "meta":
            return func(*args, **{**kwargs, "device": HOST}).to("meta")  # meta has no values
        out = func(*args, **kwargs)
        return self._device.pin(out) if pinned else out


def _heard(argument):
    cuda = isinstance(argument, (str, torch.device)) and str(argument) in ("cuda", "cuda:0")
    return "meta" if cuda else argument


class _Stream:
    def __init__(self, device):
        self.synchronize = device.wait

    def wait_stream(self, other):
        """Nothing: work is done in the order in which it is queued."""


class _Graph(Recording):
    def __init__(self, device):
        super().__init__()
        self._device = device

    def replay(self):
        super().replay()
        self._device.replays += 1
