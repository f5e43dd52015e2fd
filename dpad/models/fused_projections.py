"""Fused projections: one product for the plain linear layers that read the same rows."""

import threading
import weakref
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from dpad.models import linear_layers

EXPERTS = "experts"  # the kind of `RoutedMLP`


def of_layers(layers, copies):
    """`FusedProjections` of these layers, or None where none would ever be used."""
    routed = any(kind == EXPERTS for layer in layers for kind, *_ in layer.groups())
    return FusedProjections(layers, copies) if copies or routed else None


class _Source:
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
    """weight ``[sum(sizes), in_features]`` and bias ``[sum(sizes)]`` or None: stacked copies, or
    the modules' own memory where that is one piece.
    """

    sources: list
    weight: torch.Tensor
    bias: torch.Tensor | None
    sizes: tuple[int, ...]
    kind: str = ""
    copied: bool = True

    @classmethod
    def of(cls, modules, kind, copies=True):
        """None where it would be a copy and `copies` is False."""
        sources = [_Source(tensor) for tensor in _tensors(modules)]  # before their values are read
        weights, bias = [m.weight.detach() for m in modules], None
        weight = side_by_side(weights) if modules[0].bias is None else None
        copied = weight is None
        if copied and not copies:
            return None
        if copied:
            weight = torch.cat(weights)
        if modules[0].bias is not None:
            bias = torch.cat([m.bias.detach() for m in modules])
        return cls(sources, weight, bias, tuple(m.out_features for m in modules), kind, copied)

    def after(self, count):
        """The same copies without the first `count` modules."""
        first = sum(self.sizes[:count])
        bias = None if self.bias is None else self.bias[first:]
        return _Fused([], self.weight[first:], bias, self.sizes[count:])

    def is_of(self, modules):
        tensors = _tensors(modules)
        return len(tensors) == len(self.sources) and all(
            source.is_still(tensor) for source, tensor in zip(self.sources, tensors, strict=True)
        )


def side_by_side(weights):
    """One tensor ``[sum(rows), columns]`` over matrices that follow each other in memory, or None.
    Nothing is copied.
    """
    first, place = weights[0], weights[0].data_ptr()
    storage = first.untyped_storage().data_ptr()
    for weight in weights:
        if (
            weight.data_ptr() != place
            or not weight.is_contiguous()
            or weight.untyped_storage().data_ptr() != storage
        ):
            return None
        place += weight.nbytes
    rows = sum(weight.shape[0] for weight in weights)
    return first.as_strided((rows, first.shape[1]), (first.shape[1], 1))


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
    """Stacked copies of the weights of q, k, v, of gate, up and of the experts of every layer that
    allows it.

    The model keeps its parameters and modules; the copies are extra memory. `refresh` compares them
    with the parameters' storages and version counters, and copies anew what has changed; writing
    through ``parameter.data`` counts no version and stays unseen, as it does for autograd. Weights
    that follow each other in memory are used where they are; without `copies` only experts are, and
    only so.
    """

    def __init__(self, layers, copies=True):
        self._layers, self._total, self._copies = layers, len(layers), copies
        self._fused = {}  # parts -> _Fused
        self._lock = threading.Lock()

    def refresh(self):
        """Copies what is new or has changed, and drops what cannot be fused any more."""
        with self._lock:
            for layer in self._layers:
                for kind, parts, called in layer.groups():
                    if self._copies or kind == EXPERTS:
                        self._refresh(kind, parts, called)

    def _refresh(self, kind, parts, called):
        modules = [part.module for part in parts]
        fusible, have = called and _fusible(modules), self._fused.get(parts)
        if fusible and have is not None and have.is_of(modules):
            return
        del have
        for stale in (parts, parts[1:]):  # freed before anew is allocated
            self._fused.pop(stale, None)
        fused = _Fused.of(modules, kind, self._copies) if fusible else None
        if fused is not None:
            self._fused[parts] = fused
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
        fused = self._for(parts, x)
        if fused is None:
            return None
        return linear_layers.product(x, fused.weight, fused.bias).split(fused.sizes, -1)

    def weight(self, parts, x):
        """The weights ``[sum(out_features), in_features]`` alone, for rows like `x`, or None."""
        fused = self._for(parts, x)
        return None if fused is None else fused.weight

    def of(self, parts):
        """What is fused of these parts, or None."""
        return self._fused.get(parts)

    def _for(self, parts, x):
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None
        fused = self._fused.get(parts)
        if fused is None or fused.weight.dtype != x.dtype or fused.weight.device != x.device:
            return None
        return fused

    def _found(self):
        return [fused for fused in list(self._fused.values()) if fused.sources]

    def tensors(self):
        """All stacked weights and biases."""
        return [t for f in self._found() for t in (f.weight, f.bias) if t is not None]

    @property
    def nbytes(self):
        """Bytes of the copies."""
        copies = [f for f in self._found() if f.copied]
        return sum(t.nbytes for f in copies for t in (f.weight, f.bias) if t is not None)

    def where(self):
        """What is fused, as words for the report."""
        kinds = [fused.kind for fused in self._found()]
        counts = {kind: kinds.count(kind) for kind in ("q, k, v", "gate, up")}
        if not self._copies:
            counts = {}
        if any(kind == EXPERTS for layer in self._layers for kind, *_ in layer.groups()):
            counts[EXPERTS] = kinds.count(EXPERTS) // 2  # their inner and their outer weights
        words = " and ".join(f"{kind} of {count}" for kind, count in counts.items())
        return f"{words} of {self._total} layers, {self.nbytes} bytes more"
