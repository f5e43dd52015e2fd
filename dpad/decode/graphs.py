"""Which steps are captured as graphs, kept and replayed, and which cannot be."""

from collections import OrderedDict
from threading import Lock
from typing import Any

import torch
from torch import nn

from dpad import ops
from dpad.decode.cache import KVArena
from dpad.decode.captured_step import Bucket, CapturedStep, Inputs
from dpad.decode.controls import Controls
from dpad.decode.device import CAPTURES
from dpad.decode.layout import Layout
from dpad.decode.packed import tensors_of
from dpad.decode.step import DeviceStep
from dpad.models import linear_layers
from dpad.models.adapter import Adapter

MOST_GRAPHS = 32  # of one workspace; the one that was not used for longest goes first


_CAPTURING = Lock()  # one at a time: torch waits for the whole device before a capture
OPERATORS = (  # of a step
    "suffix_gather",
    "rope_kv_write_",
    "block_attention",
    "add_rms_norm_",
    "swiglu",
    "confidence",
    "uniform",
    "unmask_",
)


class Graphs:
    """The captured steps of one workspace.

    `why_not` says why steps are not captured, or is None; `last_obstacle` why those of the sequence
    that came last are not; `used` whether anything was decoded.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.wanted, self.used = wanted, False
        self.why_not: str | None = None
        self.last_obstacle: str | None = None
        self._failed: str | None = None
        self._steps: OrderedDict[tuple[Any, ...], CapturedStep] = OrderedDict()
        self._pool: Any = None
        self._captured_on: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def active(self) -> bool:
        """Whether steps of few rows are captured."""
        return self.why_not is None

    def prepare(self, adapter: Adapter, arena: KVArena) -> bool:
        """Before sequences are decoded: finds out whether steps can be captured, and forgets those
        that were captured on what has moved since; `active`.
        """
        self.used, self.why_not = True, self._failed
        if self.active:
            self.why_not = obstacle(adapter) if self.wanted else "not wanted"
        if self.active:
            found = arena.generation, *addresses(adapter)
            if found != self._captured_on:
                self.drop()
            self._captured_on = found
        return self.active

    def drop(self) -> None:
        """Forgets all graphs: what they were captured on has moved."""
        self._steps.clear()

    def step_for(
        self, step: DeviceStep, layout: Layout, controls: Controls, watched: bool
    ) -> CapturedStep | None:
        """The `CapturedStep` for a pass, captured if need be, or None where that has failed.

        `watched`: somebody looks at what it decides.
        """
        if not self.active:
            return None
        names = {**tensors_of(layout), **tensors_of(controls)}
        bucket = Bucket.of(layout)
        key = bucket, frozenset(names), controls.most_k, watched, step.lane
        if key in self._steps:
            self._steps.move_to_end(key)
            return self._steps[key]
        device = step.adapter.device
        capture = CAPTURES[device.type]
        try:
            if not self._steps:  # a pool that has lost all its graphs is gone as well
                self._pool = capture.pool()
            inputs = Inputs(bucket, step.canvas, names, device, controls.most_k)
            with _CAPTURING:
                captured = CapturedStep(step, inputs, capture, self._pool, watched)
        except RuntimeError as error:  # for good: torch's allocator may not recover from it
            line = str(error).partition("\n")[0]
            self.why_not = self._failed = f"a step could not be captured: {line}"
            return None
        self._steps[key] = captured
        while len(self._steps) > MOST_GRAPHS:
            self._steps.popitem(last=False)
        return captured


def obstacle(adapter: Adapter) -> str | None:
    """Why steps of this model cannot be captured, or None."""
    device = adapter.device.type
    if device not in CAPTURES:
        return f"{device} has no graphs"
    missing = [name for name in OPERATORS if not ops.has_kernel(name, device)]
    if missing:
        return f"{missing[0]} has no {device} kernel"
    odd = _not_plain(adapter)
    if odd:
        return f"'{odd}' is no plain module or has hooks"
    return next(filter(None, (layer.mlp.obstacle(adapter) for layer in adapter.layers)), None)


def _modules(adapter: Adapter) -> list[nn.Module]:
    """Every module that a pass calls or whose weight it uses."""
    blocks = [layer.hooked_block() for layer in adapter.layers]
    norms = [norm.module for norm in adapter.norms()]
    own = [*adapter.called(), *norms, *adapter.constant_modules()]
    return [*own, *(block for block in blocks if block is not None)]


def _not_plain(adapter: Adapter) -> str | None:
    """Name of a module that is more than torch's own product or lookup on plain weights."""
    plain, ordinary = {nn.Linear, nn.Embedding}, {torch.Tensor, nn.Parameter}
    odd = {id(module) for module in adapter.called() if type(module) not in plain}
    if adapter.embed.is_lookup:
        odd.discard(id(adapter.embed.module))
    odd |= {
        id(module)
        for module in _modules(adapter)
        if not linear_layers.only_own_forward(module)
        or any(type(t) not in ordinary or t.layout != torch.strided for t in _weights(module))
    }
    if not odd and not linear_layers.hooked_everywhere():
        return None
    names = [name for name, module in adapter.model.named_modules() if id(module) in odd]
    return names[0] if names else "torch.nn.Module"


def _weights(module: nn.Module) -> list[torch.Tensor]:
    """Its weight and bias, as parameters or, which takes longer, as attributes of another kind."""
    own = module._parameters
    found = (own[n] if n in own else getattr(module, n, None) for n in ("weight", "bias"))
    return [t for t in found if t is not None]


def addresses(adapter: Adapter) -> tuple[Any, ...]:
    """What tells whether graphs still read the model's weights: where and how they lie, and what
    else of the model is written into them.
    """
    tensors = [t for module in _modules(adapter) for t in _weights(module)]
    tensors.append(adapter.weight)
    # Made here at the latest: what is made within a capture lies in memory of the graph's own.
    tensors += [vector for constant in adapter.constants for vector in constant.kept()]
    tensors += [t for layer in adapter.layers for t in layer.mlp.tensors()]
    if adapter.fused is not None:
        tensors += adapter.fused.tensors()
    numbers = (adapter.head.scale, *(norm.eps for norm in adapter.norms()))
    return numbers, tuple((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors)
