"""The MLPs of a layer: each runs, lists and fuses itself."""

from dataclasses import dataclass

import torch

from dpad import ops
from dpad.models import linear_layers
from dpad.models.parts import Part, part

# Rows of an MLP that the CPU computes together: more, and its wide intermediates leave the caches
# and cost fresh pages in every layer. Under torch.compile the number of pieces would be part of the
# graph, one graph for each.
ROWS = 512


@dataclass(frozen=True)
class DenseMLP:
    """``down_proj(silu(gate_proj(x)) * up_proj(x))``, SwiGLU.

    The projections are the user's own modules (see `linear_layers`); `whole` is the module around
    them, where the family has one.
    """

    gate_proj: Part
    up_proj: Part
    down_proj: Part
    whole: Part | None = None

    def whole_module(self):
        """The module `whole` if its call is more than the three projections, and so is called: it
        has hooks or a forward of its own, or has taken another's place. Else None.
        """
        module = None if self.whole is None else self.whole.module
        if module is self.gate_proj.parent and linear_layers.only_own_forward(module):
            return None
        return module

    def called(self):
        """The projections, where they are called."""
        if self.whole_module() is not None:
            return []
        return [part.module for part in (self.gate_proj, self.up_proj, self.down_proj)]

    def inner_width(self):
        """Elements of a row between up and down."""
        return self.up_proj.module.out_features

    def groups(self):
        """What `FusedProjections` may stack, see `dpad.models.parts.Attention.groups`."""
        return [("gate, up", (self.gate_proj, self.up_proj), self.whole_module() is None)]

    def __call__(self, adapter, x):
        """``[rows, width]`` of normed rows ``[rows, width]``."""
        whole = self.whole_module()
        if whole is not None:
            return whole(x)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or x.shape[0] <= ROWS:
            gate, up = adapter.products((self.gate_proj, self.up_proj), x)
            return self.down_proj(ops.swiglu(gate, up))
        return torch.cat([self(adapter, part) for part in x.split(ROWS)])


def dense(model, path):
    """The `DenseMLP` of the module at a dotted path, with the usual names; UnsupportedModelError
    if none is there.
    """
    names = (f"{path}.{name}" for name in ("gate_proj", "up_proj", "down_proj"))
    return DenseMLP(*(part(model, name) for name in names), part(model, path))
