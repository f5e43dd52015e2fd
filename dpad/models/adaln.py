"""Parts of diffusion transformers whose condition (adaLN) is the same for every text: layer norms
that are scaled and shifted, outputs that are gated.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from dpad.models import linear_layers
from dpad.models.parts import Norm, Part

FREQUENCIES = 256  # of a time's embedding; the first half are cosines


@dataclass(frozen=True)
class Modulation:
    """The vectors that `linear` gives of the embedding of time 0, whatever the text is: shifts,
    scales and gates, `count` of them.

    `first` and `second` embed the time, with SiLU behind each. The vectors are kept for as long as
    the weights of three plain layers are the same; other modules are called each time.
    """

    linear: Part
    first: Part
    second: Part
    count: int
    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def parts(self) -> tuple[Part, ...]:
        return self.linear, self.first, self.second

    def kept(self) -> tuple[torch.Tensor, ...]:
        """The vectors, if they are kept from call to call."""
        return () if self._tensors() is None else self()

    def __call__(self) -> tuple[torch.Tensor, ...]:
        """``count`` vectors ``[width]`` in the dtype of the weights."""
        tensors = None if torch.compiler.is_compiling() else self._tensors()
        if tensors is None:
            return self._vectors()
        kept, vectors = self._kept.get("now", ((), None))
        if len(kept) != len(tensors) or not all(map(_is_still, tensors, kept)):
            # The aliases hold the memory, so that no other weight can come to lie there.
            kept, vectors = [(t, t.detach(), t._version) for t in tensors], self._vectors()
            self._kept["now"] = kept, vectors
        return vectors

    def _tensors(self) -> list[torch.Tensor] | None:
        modules = [part.module for part in self.parts()]
        if not all(map(linear_layers.is_plain, modules)):
            return None
        tensors = [t for m in modules for t in (m.weight, m.bias) if t is not None]
        # An inference tensor does not count its changes.
        return None if any(t.is_inference() for t in tensors) else tensors

    @torch.no_grad()
    def _vectors(self) -> tuple[torch.Tensor, ...]:
        time = self.first.module.weight.new_zeros(FREQUENCIES)
        time[: FREQUENCIES // 2] = 1  # the cosines of 0; all sines are 0
        condition = self.second.module(F.silu(self.first.module(time)))
        return self.linear.module(F.silu(condition)).chunk(self.count)


def _is_still(tensor: torch.Tensor, kept: tuple[torch.Tensor, torch.Tensor, int]) -> bool:
    same, alias, version = kept
    moved = tensor.data_ptr() != alias.data_ptr()
    return tensor is same and not moved and tensor._version == version


@dataclass(frozen=True)
class LayerNorm(Norm):
    """A layer norm with a weight and no bias; with a `modulation` its rows are multiplied by 1 +
    the vector of number `scale`, and that of number `shift` is added.
    """

    eps_name: str = ""
    modulation: Modulation | None = None
    shift: int = 0
    scale: int = 1

    @property
    def eps(self) -> float:
        return 1e-5

    def __call__(self, residual: torch.Tensor, delta: torch.Tensor | None = None) -> torch.Tensor:
        """As `Norm`."""
        if delta is not None:
            residual.add_(delta)
        shift, scale = self._vectors()
        module = self.module
        if linear_layers.only_own_forward(module):
            weight = module.weight.float()
            weight = weight if scale is None else weight * (1 + scale)
            wide = residual.float()
            return F.layer_norm(wide, weight.shape, weight, shift, self.eps).to(residual.dtype)
        seen = residual.clone()  # a hook may keep it, and the residual goes on changing
        normed = module(seen[None])[0].float()  # released classes take a batch of sequences
        residual.copy_(seen)
        normed = normed if scale is None else normed * (1 + scale) + shift
        return normed.to(residual.dtype)

    def _vectors(self) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """(shift, scale) in float32, or None twice."""
        if self.modulation is None:
            return None, None
        vectors = self.modulation()
        return vectors[self.shift].float(), vectors[self.scale].float()


@dataclass(frozen=True)
class Gated(Part):
    """A module whose output is multiplied by the vector of number `gate`."""

    modulation: Modulation
    gate: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return super().__call__(x) * self.modulation()[self.gate]


@dataclass(frozen=True)
class Table(Part):
    """An embedding of a family's own class, whose weight has another name."""

    weight_name: str
    is_lookup = True

    @property
    def weight(self) -> torch.Tensor:
        return getattr(self.module, self.weight_name)
