"""Fused projections: one product for the plain linear layers that read the same rows."""

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from dpad.models import linear_layers

if TYPE_CHECKING:
    from dpad.models.parts import Layer, Part

Parts = tuple["Part", ...]
EXPERTS = "experts"  # the kind of `RoutedMLP`


def of_layers(layers: Sequence["Layer"], copies: bool) -> "FusedProjections | None":
    """`FusedProjections` of these layers, or None where none would ever be used."""
    routed = any(kind == EXPERTS for layer in layers for kind, *_ in layer.groups())
    return FusedProjections(layers, copies) if copies or routed else None


class _Source:
    """A tensor as it was when it was copied; nothing of it is kept alive.

    The weak reference keeps the name of the storage taken, not its memory: a later storage at the
    same address is another one.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.state = weakref.ref(tensor), self._state(tensor)

    @staticmethod
    def _state(tensor: torch.Tensor) -> tuple[Any, ...]:
        storage = StorageWeakRef(tensor.untyped_storage())
        layout = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        return storage, tensor._version, *layout

    def is_still(self, tensor: torch.Tensor) -> bool:
        return self.tensor() is tensor and self.state == self._state(tensor)


@dataclass(frozen=True)
class _Fused:
    """weight ``[sum(sizes), in_features]`` and bias ``[sum(sizes)]`` or None: stacked copies, or
    the modules' own memory where that is one piece.
    """

    sources: list[_Source]
    weight: torch.Tensor
    bias: torch.Tensor | None
    sizes: tuple[int, ...]
    kind: str = ""
    copied: bool = True

    @classmethod
    def of(cls, modules: Sequence[nn.Linear], kind: str, copies: bool = True) -> Self | None:
        """None where it would be a copy and `copies` is False."""
        sources = [_Source(tensor) for tensor in _tensors(modules)]  # before their values are read
        weights, bias = [m.weight.detach() for m in modules], None
        weight = side_by_side(weights) if modules[0].bias is None else None
        copied = weight is None
        if copied and not copies:
            return None
        if weight is None:
            weight = torch.cat(weights)
        if modules[0].bias is not None:
            bias = torch.cat([m.bias.detach() for m in modules])
        return cls(sources, weight, bias, tuple(m.out_features for m in modules), kind, copied)

    def after(self, count: int) -> "_Fused":
        """The same copies without the first `count` modules."""
        first = sum(self.sizes[:count])
        bias = None if self.bias is None else self.bias[first:]
        return _Fused([], self.weight[first:], bias, self.sizes[count:])

    def is_of(self, modules: Sequence[nn.Linear]) -> bool:
        tensors = _tensors(modules)
        return len(tensors) == len(self.sources) and all(
            source.is_still(tensor) for source, tensor in zip(self.sources, tensors, strict=True)
        )


def side_by_side(weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
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


def _tensors(modules: Sequence[nn.Linear]) -> list[torch.Tensor]:
    pairs = [(module.weight, module.bias) for module in modules]
    return [tensor for pair in pairs for tensor in pair if tensor is not None]


def _fusible(modules: Sequence[nn.Module]) -> bool:
    """Whether one product can stand for all: plain layers of one dtype, device and width, with a
    bias each or none. An inference tensor does not count its changes.
    """
    plain = [module for module in modules if linear_layers.is_plain(module)]
    if len(plain) != len(modules):
        return False
    tensors = _tensors(plain)
    dtype, device = tensors[0].dtype, tensors[0].device
    return (
        device.type != "meta"
        and len(tensors) in (len(modules), 2 * len(modules))
        and len({module.weight.shape[1] for module in plain}) == 1
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

    def __init__(self, layers: Sequence["Layer"], copies: bool = True) -> None:
        self._layers, self._total, self._copies = layers, len(layers), copies
        self._fused: dict[Parts, _Fused] = {}
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Copies what is new or has changed, and drops what cannot be fused any more."""
        with self._lock:
            for layer in self._layers:
                for kind, parts, called in layer.groups():
                    if self._copies or kind == EXPERTS:
                        self._refresh(kind, parts, called)

    def _refresh(self, kind: str, parts: Parts, called: bool) -> None:
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

    def free(self) -> None:
        """Frees the copies for good."""
        with self._lock:
            self._layers, self._fused = (), {}

    def products(self, parts: Parts, x: torch.Tensor) -> Sequence[torch.Tensor] | None:
        """Outputs ``[rows, out_features]`` of the parts for `x` ``[rows, in_features]``, views of
        one tensor; None if they are to be called, as they are where torch.compile traces them or
        gradients are recorded.
        """
        fused = self._for(parts, x)
        if fused is None:
            return None
        return linear_layers.product(x, fused.weight, fused.bias).split(fused.sizes, -1)

    def weight(self, parts: Parts, x: torch.Tensor) -> torch.Tensor | None:
        """The weights ``[sum(out_features), in_features]`` alone, for rows like `x`, or None."""
        fused = self._for(parts, x)
        return None if fused is None else fused.weight

    def of(self, parts: Parts) -> _Fused | None:
        """What is fused of these parts, or None."""
        return self._fused.get(parts)

    def _for(self, parts: Parts, x: torch.Tensor) -> _Fused | None:
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None
        fused = self._fused.get(parts)
        if fused is None or fused.weight.dtype != x.dtype or fused.weight.device != x.device:
            return None
        return fused

    def _found(self) -> list[_Fused]:
        return [fused for fused in list(self._fused.values()) if fused.sources]

    def tensors(self) -> list[torch.Tensor]:
        """All stacked weights and biases."""
        return [t for f in self._found() for t in (f.weight, f.bias) if t is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        copies = [f for f in self._found() if f.copied]
        return sum(t.nbytes for f in copies for t in (f.weight, f.bias) if t is not None)

    def where(self) -> str:
        """What is fused, as words for the report."""
        kinds = [fused.kind for fused in self._found()]
        counts = {kind: kinds.count(kind) for kind in ("q, k, v", "gate, up")}
        if not self._copies:
            counts = {}
        if any(kind == EXPERTS for layer in self._layers for kind, *_ in layer.groups()):
            counts[EXPERTS] = kinds.count(EXPERTS) // 2  # their inner and their outer weights
        words = " and ".join(f"{kind} of {count}" for kind, count in counts.items())
        return f"{words} of {self._total} layers, {self.nbytes} bytes more"
