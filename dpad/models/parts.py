"""The parts of a model by their places in its module tree, and how they are run and found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from torch import Tensor, nn

from dpad import ops
from dpad.models import block_hooks, linear_layers

if TYPE_CHECKING:
    from dpad.models.adapter import Adapter
    from dpad.models.mlp import DenseMLP, RoutedMLP


class UnsupportedModelError(ValueError):
    """The model's module tree or configuration is not one that dpad can decode."""


@dataclass(frozen=True)
class Part:
    """A submodule by its place in the tree.

    What stands there when it is called is called: layers that were wrapped, replaced or quantised
    after the adapter was made are the ones that run.
    """

    parent: nn.Module
    name: str
    is_lookup = False  # its call does nothing but take rows of its `weight`, whatever its class

    @property
    def module(self) -> Any:
        children = self.parent._modules  # nn.Module.__getattr__ takes ten times as long
        return children[self.name] if self.name in children else getattr(self.parent, self.name)

    @property
    def weight(self) -> Tensor:
        return self.module.weight

    def __call__(self, x: Tensor) -> Tensor:
        return linear_layers.call(self.module, x)


class Stack(tuple[Part, ...]):
    """Parts whose weights may lie in one tensor; a key by identity, for it can have hundreds."""

    __hash__, __eq__ = object.__hash__, object.__eq__


PartKind = TypeVar("PartKind", bound=Part)
# Kind, parts that may be one product, whether they are called.
Group = tuple[str, tuple[Part, ...], bool]


@dataclass(frozen=True)
class Norm(Part):
    """An RMS norm: its module (weight ``[width]``) and the attribute that holds its epsilon."""

    eps_name: str

    @property
    def eps(self) -> float:
        return self._eps_of(self.module)

    def _eps_of(self, module: nn.Module) -> float:
        eps = getattr(module, self.eps_name, None)
        if eps is None:  # something around the norm, whose weight alone would not be the norm
            raise UnsupportedModelError(
                f"'{self.name}' is a {type(module).__name__} without '{self.eps_name}': dpad "
                "takes plain RMS norms"
            )
        return float(eps)

    def __call__(self, residual: Tensor, delta: Tensor | None = None) -> Tensor:
        """Adds `delta` to the residual in place, both ``[rows, width]``; returns the normed rows.

        A module whose call is more than its class's forward is called.
        """
        module = self.module
        if linear_layers.only_own_forward(module):
            eps = self._eps_of(module)  # says what stands there where it is no norm
            weight = linear_layers.parameter(module, "weight")
            return ops.add_rms_norm_(residual, delta, weight, eps)
        if delta is not None:
            residual.add_(delta)
        seen = residual.clone()  # a hook may keep it, and the residual goes on changing
        normed = module(seen)
        residual.copy_(seen)  # a hook may have changed it, as it could in the stock forward
        return normed


@dataclass(frozen=True)
class Head(Part):
    """What gives logits: a module, or the embedding's weight if `tied`; `scale` multiplies them,
    `widened` makes them float32.
    """

    tied: bool = False
    scale: float | None = None
    widened: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        logits = (
            linear_layers.product(x, module.weight) if self.tied else linear_layers.call(module, x)
        )
        logits = logits if self.scale is None else logits * self.scale
        return logits.float() if self.widened else logits


@dataclass(frozen=True)
class Attention:
    """What stands around the attention of one layer. Projections are the user's own modules.

    `q`, `k` and `v`, or one `qkv` whose outputs are the heads of q, then of k, then of v; `o` takes
    the heads back. `q_norm` and `k_norm` are RMS norms over ``head_dim``, before RoPE.
    """

    o: Part
    q: Part | None = None
    k: Part | None = None
    v: Part | None = None
    qkv: Part | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None

    def parts(self) -> tuple[Part, ...]:
        """The projections, in the order of the forward."""
        return (*self._projections, self.o)

    def norms(self) -> list[Norm]:
        return [norm for norm in (self.q_norm, self.k_norm) if norm is not None]

    def groups(self) -> list[Group]:
        """(kind, parts that may be one product, whether they are called) for `FusedProjections`."""
        return [] if self.q is None else [("q, k, v", self._projections, True)]

    @property
    def _projections(self) -> tuple[Part, ...]:
        found = (self.qkv,) if self.q is None else (self.q, self.k, self.v)
        return cast("tuple[Part, ...]", found)

    def __call__(self, adapter: "Adapter", x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q ``[rows, heads, head_dim]`` and k, v ``[rows, kv_heads, head_dim]``, q and k normed, of
        normed rows ``[rows, width]``.
        """
        if self.qkv is not None:
            q, k, v = self.qkv(x).split(self._sizes(adapter), -1)
        else:
            q, k, v = adapter.products(self._projections, x)
        return self._queries(adapter, q), *self._keys_values(adapter, k, v)

    def keys_values(self, adapter: "Adapter", x: Tensor) -> tuple[Tensor, Tensor]:
        """k and v alone."""
        if self.q is None:
            k, v = self._stacked(x, self._sizes(adapter), slice(1, 3))
        else:
            k, v = adapter.products(self._projections[1:], x)
        return self._keys_values(adapter, k, v)

    def queries(self, adapter: "Adapter", x: Tensor) -> Tensor:
        """q alone."""
        q = self._stacked(x, self._sizes(adapter), slice(0, 1))[0] if self.q is None else self.q(x)
        return self._queries(adapter, q)

    @staticmethod
    def _sizes(adapter: "Adapter") -> list[int]:
        return [n * adapter.head_dim for n in (adapter.num_heads, *[adapter.num_kv_heads] * 2)]

    def _stacked(self, x: Tensor, sizes: list[int], wanted: slice) -> Sequence[Tensor]:
        """Some of q, k, v: by their rows of the weight where `qkv` is a plain layer."""
        module = cast("Part", self.qkv).module
        if not linear_layers.is_plain(module):
            return module(x).split(sizes, -1)[wanted]
        first = sum(sizes[: wanted.start])
        rows = slice(first, first + sum(sizes[wanted]))
        bias = None if module.bias is None else module.bias[rows]
        return linear_layers.product(x, module.weight[rows], bias).split(sizes[wanted], -1)

    def _queries(self, adapter: "Adapter", q: Tensor) -> Tensor:
        return _heads(q, adapter.num_heads, self.q_norm)

    def _keys_values(self, adapter: "Adapter", k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return _heads(k, adapter.num_kv_heads, self.k_norm), _heads(v, adapter.num_kv_heads)


def _heads(x: Tensor, count: int, norm: Norm | None = None) -> Tensor:
    """``[rows, count, head_dim]`` of ``[rows, count * head_dim]``, each head normed."""
    heads = x.view(x.shape[0], count, x.shape[1] // count)  # `unflatten` is Python, and slower
    return heads if norm is None else norm(heads.flatten(0, 1)).view(heads.shape)


@dataclass(frozen=True)
class Layer:
    """One transformer layer: two norms, the `Attention`, and an MLP of `dpad.models.mlp`.

    `block` is the module whose call that is in the stock forward, and `in_tuple` whether it returns
    its hidden states in a tuple: for hooks on it, see `dpad.models.block_hooks`.
    """

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: "DenseMLP | RoutedMLP"
    block: Part | None = None
    in_tuple: bool = False

    def hooked_block(self) -> nn.Module | None:
        """The module `block` if it has hooks, else None."""
        module = None if self.block is None else self.block.module
        return module if module is not None and block_hooks.are_on(module) else None

    def norms(self) -> list[Norm]:
        """In the order of the forward."""
        return [self.attention_norm, *self.attention.norms(), self.mlp_norm]

    def groups(self) -> list[Group]:
        """What `FusedProjections` may stack, see `Attention.groups`."""
        return [*self.attention.groups(), *self.mlp.groups()]


@overload
def part(model: nn.Module, path: str) -> Part: ...
@overload
def part(model: nn.Module, path: str, kind: type[PartKind], **more: Any) -> PartKind: ...
def part(model: nn.Module, path: str, kind: type[Any] = Part, **more: Any) -> Any:
    """The `Part`, or another `kind` of it, at a dotted path; UnsupportedModelError as `need`."""
    need(model, path)
    parent, _, name = path.rpartition(".")
    return kind(need(model, parent) if parent else model, name, **more)


def norm(model: nn.Module, path: str, eps_name: str) -> Norm:
    """The `Norm` at a dotted path; UnsupportedModelError if none is there."""
    found = part(model, path, Norm, eps_name=eps_name)
    require(found.eps > 0, f"{path}.{eps_name}", found.eps)
    return found


def need(model: nn.Module, path: str) -> Any:
    """The submodule or attribute at a dotted path, or an UnsupportedModelError naming the path."""
    found: Any = model
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part, None)
        if found is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no '{path}', which a model of that name should have"
            )
    return found


def require(condition: bool, what: str, value: object) -> None:
    """Raises UnsupportedModelError unless `condition`."""
    if not condition:
        raise UnsupportedModelError(f"dpad does not support {what} = {value!r}")
