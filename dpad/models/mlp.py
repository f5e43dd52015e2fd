"""The MLPs of a layer: each runs, lists and fuses itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from dpad import ops
from dpad.models import linear_layers
from dpad.models.fused_projections import EXPERTS
from dpad.models.parts import Group, Part, Stack, need, part, require

if TYPE_CHECKING:
    from dpad.models.adapter import Adapter

# Rows of an MLP that the CPU computes together: more, and its wide intermediates leave the caches
# and cost fresh pages in every layer. Under torch.compile the number of pieces would be part of the
# graph, one graph for each.
ROWS = 512


@dataclass(frozen=True)
class DenseMLP:
    """``down_proj(silu(gate_proj(x)) * up_proj(x))``, SwiGLU; without `gate_proj`
    ``down_proj(gelu(up_proj(x)))``, approximated by tanh.

    The projections are the user's own modules (see `linear_layers`); `whole` is the module around
    them, where the family has one.
    """

    gate_proj: Part | None
    up_proj: Part
    down_proj: Part
    whole: Part | None = None

    def whole_module(self) -> nn.Module | None:
        """The module `whole` if its call is more than the three projections, and so is called: it
        has hooks or a forward of its own, or has taken another's place. Else None.
        """
        module = None if self.whole is None else self.whole.module
        if module is self.up_proj.parent and linear_layers.only_own_forward(module):
            return None
        return module

    def called(self) -> list[nn.Module]:
        """The projections, where they are called."""
        if self.whole_module() is not None:
            return []
        parts = (self.gate_proj, self.up_proj, self.down_proj)
        return [part.module for part in parts if part is not None]

    def inner_width(self) -> int:
        """Elements of a row between up and down."""
        module = self.up_proj.module
        if hasattr(module, "out_features"):
            return module.out_features
        # A wrapper of a layer, which need not say it.
        return max((weight.shape[0] for weight in module.parameters()), default=0)

    def groups(self) -> list[Group]:
        """What `FusedProjections` may stack, see `dpad.models.parts.Attention.groups`."""
        if self.gate_proj is None:
            return []
        return [("gate, up", (self.gate_proj, self.up_proj), self.whole_module() is None)]

    def tensors(self) -> list[torch.Tensor]:
        """What operators read of modules that are not called."""
        return []

    def obstacle(self, adapter: "Adapter") -> str | None:
        """Why it waits for the device within a pass, or None."""
        return None

    def __call__(self, adapter: "Adapter", x: torch.Tensor) -> torch.Tensor:
        """``[rows, width]`` of normed rows ``[rows, width]``."""
        if self.whole is not None and self.whole_module() is not None:
            return self.whole(x)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or x.shape[0] <= ROWS:
            if self.gate_proj is None:
                return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))
            gate, up = adapter.products((self.gate_proj, self.up_proj), x)
            return self.down_proj(ops.swiglu(gate, up))
        return torch.cat([self(adapter, part) for part in x.split(ROWS)])


@dataclass(frozen=True)
class Routing:
    """How a router's logits become experts and weights, the arguments of `route`; whether those
    logits are a product in float32 (`wide`), and how the experts' results are rounded and summed
    (`full_precision`, `round_weights`, see `combine`).
    """

    top_k: int
    score: str = "softmax"
    normalise: bool = True
    groups: int = 1
    top_groups: int = 1
    scaling: float = 1.0
    wide: bool = False
    full_precision: bool = True
    round_weights: bool = True


@dataclass(frozen=True)
class RoutedMLP:
    """A mixture of experts: each row goes through the `top_k` experts that the router scores best.

    Its experts are one grouped product where their weights lie in one tensor each: as 3-D
    parameters (`stacked`), side by side in memory, or as the copies of `FusedProjections`; else
    each is called with its rows, which waits for the device. `router` is a Linear, or a module of
    which only the `weight` ``[experts, width]`` is used; `bias` is the attribute that holds what is
    added to the scores that choose.
    """

    whole: Part
    router: Part
    routing: Routing
    experts: tuple[DenseMLP, ...] = ()
    stacked: Part | None = None
    bias: Part | None = None
    shared: DenseMLP | None = None
    _into: Stack = field(init=False, repr=False, compare=False)
    _out: Stack = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pairs = [p for e in self.experts for p in (e.gate_proj, e.up_proj) if p is not None]
        object.__setattr__(self, "_into", Stack(pairs))
        object.__setattr__(self, "_out", Stack(e.down_proj for e in self.experts))

    def whole_module(self) -> nn.Module | None:
        """The module of the whole MLP if it has to be called: it, a router that is no Linear or
        stacked experts have hooks or a forward of their own, or it took another's place.
        """
        module, inner = self.whole.module, [self.router.module]
        if self.stacked is not None:
            inner.append(self.stacked.module)
        moved = module is not self.router.parent
        odd = [m for m in (module, *inner) if not linear_layers.only_own_forward(m)]
        linear = isinstance(self.router.module, nn.Linear) and odd == [self.router.module]
        return module if moved or (odd and not linear) else None

    def called(self) -> list[nn.Module]:
        """Router and projections, where they are called."""
        if self.whole_module() is not None:
            return []
        dense = [*self.experts] if self.shared is None else [*self.experts, self.shared]
        router = [self.router.module] if isinstance(self.router.module, nn.Linear) else []
        return router + [module for mlp in dense for module in mlp.called()]

    def tensors(self) -> list[torch.Tensor]:
        """What operators read of modules that are not called."""
        found = [] if isinstance(self.router.module, nn.Linear) else [self.router.module.weight]
        if self.stacked is not None:
            found += [self.stacked.module.gate_up_proj, self.stacked.module.down_proj]
        return found if self.bias is None else [*found, self.bias.module]

    def obstacle(self, adapter: "Adapter") -> str | None:
        """Why it waits for the device within a pass, or None."""
        device = adapter.device.type
        missing = [name for name in ("route", "combine") if not ops.has_kernel(name, device)]
        if missing:
            return f"{missing[0]} has no {device} kernel"
        stacks = (self._into, self._out) if self.stacked is None else ()
        if any(adapter.fused is None or adapter.fused.of(parts) is None for parts in stacks):
            name = self.whole.name
            return f"the experts of '{name}' lie apart and are called (see fuse_projections)"
        return linear_layers.reads_offsets(adapter.device, adapter.dtype)

    def inner_width(self) -> int:
        """Elements of a row between up and down: all its experts' and its copies for them."""
        if self.experts:
            first = self.experts[0].up_proj.module
            inner, width = first.out_features, first.in_features
        elif self.stacked is not None:
            width, inner = self.stacked.module.down_proj.shape[1:]
        shared = 0 if self.shared is None else self.shared.inner_width()
        return self.routing.top_k * (inner + width) + shared

    def groups(self) -> list[Group]:
        """What `FusedProjections` may stack, see `dpad.models.parts.Attention.groups`."""
        called = self.whole_module() is None
        found = [] if self.shared is None else self.shared.groups()
        if self.experts:
            plain = called and all(e.whole_module() is None for e in self.experts)
            found += [(EXPERTS, self._into, plain), (EXPERTS, self._out, plain)]
        return found

    def __call__(self, adapter: "Adapter", x: torch.Tensor) -> torch.Tensor:
        """``[rows, width]`` of normed rows ``[rows, width]``."""
        whole, weights = self.whole_module(), self._weights(adapter, x)
        if whole is not None or (weights is None and torch.compiler.is_compiling()):
            out = self.whole.module(x[None])  # the released classes take a batch of sequences
            return (out[0] if isinstance(out, tuple) else out)[0]
        how = self.routing
        bias = None if self.bias is None else self.bias.module.float()
        choice = (how.top_k, how.score, how.normalise, how.groups, how.top_groups, how.scaling)
        _, weight, order, offsets = ops.route(self._logits(x), bias, *choice)
        row = order // how.top_k
        if weights is None:
            rows = x[row]
            parts = rows.tensor_split(offsets[:-1].long().cpu())
            pairs = zip(self.experts, parts, strict=True)
            results = [expert(adapter, part) for expert, part in pairs if part.shape[0]]
            y = torch.cat(results or [rows])  # a pass that only saves has no rows in its last layer
        else:
            y = linear_layers.gated_product(x, row, weights[0], offsets)
            y = linear_layers.grouped_product(y, weights[1], offsets)
        y = ops.combine(y, order, weight, how.full_precision, how.round_weights)
        return y if self.shared is None else y + self.shared(adapter, x)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        module = self.router.module
        if isinstance(module, nn.Linear):
            return self.router(x)
        weight = module.weight
        return F.linear(x.float(), weight.float()) if self.routing.wide else F.linear(x, weight)

    def _weights(self, adapter: "Adapter", x: torch.Tensor) -> Sequence[torch.Tensor] | None:
        """gate and up ``[experts, 2 ffn, width]``, down ``[experts, width, ffn]``, or None."""
        if self.stacked is not None:
            module = self.stacked.module
            return module.gate_up_proj, module.down_proj
        into, out = adapter.stack(self._into, x), adapter.stack(self._out, x)
        if into is None or out is None:
            return None
        return [weight.unflatten(0, (len(self.experts), -1)) for weight in (into, out)]


def dense(model: nn.Module, path: str) -> DenseMLP:
    """The `DenseMLP` of the module at a dotted path, with the usual names; UnsupportedModelError
    if none is there.
    """
    gate, up, down = (part(model, f"{path}.{name}_proj") for name in ("gate", "up", "down"))
    return DenseMLP(gate, up, down, part(model, path))


def routed(
    model: nn.Module,
    path: str,
    how: Routing,
    shared: DenseMLP | None = None,
    bias: Part | None = None,
    router: str = "gate",
) -> RoutedMLP:
    """The `RoutedMLP` of the module at a dotted path, with the usual names; UnsupportedModelError
    if none is there.
    """
    block, place = need(model, path), part(model, path)
    found = need(block, "experts")
    experts: tuple[DenseMLP, ...] = ()
    stacked = None
    if isinstance(found, nn.ModuleList):
        experts = tuple(dense(found, str(number)) for number in range(len(found)))
    else:
        for name in ("gate_up_proj", "down_proj"):
            require(need(found, name).dim() == 3, f"{path}.experts.{name}", need(found, name).shape)
        stacked = part(block, "experts")
    return RoutedMLP(place, part(block, router), how, experts, stacked, bias, shared)
