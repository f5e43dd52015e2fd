"""Fused projections: one product for the plain linear layers that read the same rows."""

import threading
import weakref
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from dpad.models import linear_layers


class _Seen:
    """A tensor as it was when it was copied; nothing of it is kept alive.

    The weak reference keeps the name of the storage taken, not its memory: a later storage at the
    same address is another one.
    """

    def __init__(self, tensor):
        self.tensor, self.state = weakref.ref(tensor), self._state(tensor)

    @staticmethod
    def _state(tensor):
        storage = StorageWeakRef(tensor.untyped_storage())
        layout = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        return storage, tensor._version, *layout

    def is_still(self, tensor):
        return self.tensor() is tensor and self.state == self._state(tensor)


@dataclass(frozen=True)
class _Fused:
    """weight ``[sum(sizes), in_features]`` and bias ``[sum(sizes)]`` or None: stacked copies."""

    seen: list
    weight: torch.Tensor
    bias: torch.Tensor | None
    sizes: tuple[int, ...]
    kind: str = ""

    @classmethod
    def of(cls, modules, kind):
        seen = [_Seen(tensor) for tensor in _tensors(modules)]  # before their values are read
        weight = torch.cat([m.weight.detach() for m in modules])
        bias = None
        if modules[0].bias is not None:
            bias = torch.cat([m.bias.detach() for m in modules])
        return cls(seen, weight, bias, tuple(m.out_features for m in modules), kind)

    def after(self, count):
        """The same copies without the first `count` modules."""
        first = sum(self.sizes[:count])
        bias = None if self.bias is None else self.bias[first:]
        return _Fused([], self.weight[first:], bias, self.sizes[count:])

    def is_of(self, modules):
        tensors = _tensors(modules)
        return len(tensors) == len(self.seen) and all(
            seen.is_still(tensor) for seen, tensor in zip(self.seen, tensors, strict=True)
        )


def _tensors(modules):
    pairs = [(module.weight, module.bias) for module in modules]
    return [tensor for pair in pairs for tensor in pair if tensor is not None]


def _fusible(modules):
    """Whether one product can stand for all: plain layers of one dtype, device and width, with a
    bias each or none. An inference tensor does not count its changes.
    """
    if not all(map(linear_layers.is_plain, modules)):
        return False
    tensors = _tensors(modules)
    dtype, device = tensors[0].dtype, tensors[0].device
    return (
        device.type != "meta"
        and len(tensors) in (len(modules), 2 * len(modules))
        and len({module.weight.shape[1] for module in modules}) == 1
        and all(
            linear_layers.is_ordinary(t, dtype, device.type)
            and t.device == device
            and not t.is_inference()
            for t in tensors
        )
    )


class FusedProjections:
    """Stacked copies of the weights of q, k, v and of gate, up of every layer that allows it.

    The model keeps its parameters and modules; the copies are extra memory. `refresh` compares them
    with the parameters' storages and version counters, and copies anew what has changed; writing
    through ``parameter.data`` counts no version and stays unseen, as it does for autograd.
    """

    def __init__(self, layers):
        self._layers, self._total = layers, len(layers)
        self._fused = {}  # parts -> _Fused
        self._lock = threading.Lock()

    def refresh(self):
        """Copies what is new or has changed, and drops what cannot be fused any more."""
        with self._lock:
            for layer in self._layers:
                for kind, parts, called in layer.groups():
                    self._refresh(kind, parts, called)

    def _refresh(self, kind, parts, called):
        modules = [part.module for part in parts]
        fusible, have = called and _fusible(modules), self._fused.get(parts)
        if fusible and have is not None and have.is_of(modules):
            return
        del have
        for stale in (parts, parts[1:]):  # freed before anew is allocated
            self._fused.pop(stale, None)
        if fusible:
            fused = self._fused[parts] = _Fused.of(modules, kind)
            if kind == "q, k, v":  # q may have rows of its own
                self._fused[parts[1:]] = fused.after(1)

    def free(self):
        """Frees the copies for good."""
        with self._lock:
            self._layers, self._fused = (), {}

    def products(self, parts, x):
        """Outputs ``[rows, out_features]`` of the parts for `x` ``[rows, in_features]``, views of
        one tensor; None if they are to be called, as they are where torch.compile traces them or
        gradients are recorded.
        """
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None
        fused = self._fused.get(parts)
        if fused is None or fused.weight.dtype != x.dtype or fused.weight.device != x.device:
            return None
        return linear_layers.product(x, fused.weight, fused.bias).split(fused.sizes, -1)

    def tensors(self):
        """The copies: all weights and biases."""
        found = [fused for fused in list(self._fused.values()) if fused.seen]
        return [t for fused in found for t in (fused.weight, fused.bias) if t is not None]

    @property
    def nbytes(self):
        """Bytes of the copies."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def where(self):
        """What is fused, as words for the report."""
        kinds = [fused.kind for fused in list(self._fused.values())]
        counts = (f"{kind} of {kinds.count(kind)}" for kind in ("q, k, v", "gate, up"))
        return f"{' and '.join(counts)} of {self._total} layers, {self.nbytes} bytes more"
