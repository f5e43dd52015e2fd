"""The parts of a model by their places in its module tree, and how they are run and found."""

from dataclasses import dataclass

from torch import nn

from dpad import ops
from dpad.models import linear_layers


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

    @property
    def module(self):
        return getattr(self.parent, self.name)

    def __call__(self, x):
        return linear_layers.call(self.module, x)


@dataclass(frozen=True)
class Norm(Part):
    """An RMS norm: its module (weight ``[width]``) and the attribute that holds its epsilon."""

    eps_name: str

    @property
    def eps(self):
        eps = getattr(self.module, self.eps_name, None)
        if eps is None:  # something around the norm, whose weight alone would not be the norm
            raise UnsupportedModelError(
                f"'{self.name}' is a {type(self.module).__name__} without '{self.eps_name}': dpad "
                "takes plain RMS norms"
            )
        return float(eps)

    def __call__(self, residual, delta=None):
        """Adds `delta` to the residual in place, both ``[rows, width]``; returns the normed rows.

        A module whose call is more than its class's forward is called.
        """
        module = self.module
        if linear_layers.only_own_forward(module):
            return ops.add_rms_norm_(residual, delta, module.weight, self.eps)
        if delta is not None:
            residual.add_(delta)
        seen = residual.clone()  # a hook may keep it, and the residual goes on changing
        normed = module(seen)
        residual.copy_(seen)  # a hook may have changed it, as it could in the stock forward
        return normed


@dataclass(frozen=True)
class Head(Part):
    """What gives logits: a module, or the embedding's weight if `tied`; `scale` multiplies them."""

    tied: bool = False
    scale: float | None = None

    def __call__(self, x):
        module = self.module
        logits = (
            linear_layers.product(x, module.weight) if self.tied else linear_layers.call(module, x)
        )
        return logits if self.scale is None else logits * self.scale


@dataclass(frozen=True)
class Layer:
    """One transformer layer. Projections are the user's own modules (see `linear_layers`); `mlp` is
    the module around gate, up and down, where the family has one.
    """

    attention_norm: Norm
    q: Part
    k: Part
    v: Part
    o: Part
    mlp_norm: Norm
    gate: Part
    up: Part
    down: Part
    mlp: Part | None = None

    def whole_mlp(self):
        """The module `mlp` if its call is more than gate, up and down, and so is called: it has
        hooks or a forward of its own, or has taken another's place. Else None.
        """
        module = None if self.mlp is None else self.mlp.module
        if module is self.gate.parent and linear_layers.only_own_forward(module):
            return None
        return module


def part(model, path, kind=None, **more):
    """The `Part`, or another `kind` of it, at a dotted path; UnsupportedModelError as `need`."""
    need(model, path)
    parent, _, name = path.rpartition(".")
    return (kind or Part)(need(model, parent) if parent else model, name, **more)


def norm(model, path, eps_name):
    """The `Norm` at a dotted path; UnsupportedModelError if none is there."""
    found = part(model, path, Norm, eps_name=eps_name)
    require(found.eps > 0, f"{path}.{eps_name}", found.eps)
    return found


def need(model, path):
    """The submodule or attribute at a dotted path, or an UnsupportedModelError naming the path."""
    found = model
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part, None)
        if found is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no '{path}', which a model of that name should have"
            )
    return found


def require(condition, what, value):
    """Raises UnsupportedModelError unless `condition`."""
    if not condition:
        raise UnsupportedModelError(f"dpad does not support {what} = {value!r}")
