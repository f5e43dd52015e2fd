"""Calls an operator on its kernel, or on its plain-torch twin."""

from collections.abc import Sequence
from typing import Any

import torch

from dpad.ops import reference
from dpad.ops._load import has_kernel, loaded

if loaded("_C"):
    from dpad.ops import _fakes

    _fakes.register()


def _bind(name: str) -> Any:
    """The compiled overload, looked up once, or None."""
    return getattr(torch.ops.dpad, name).default if loaded("_C") else None


_CPU = torch.device("cpu")
_COMPILED = {name: _bind(name) for name in reference.__all__ if name != "gumbel"}

# Device types on which an operator has a kernel; asked here, as torch.compile cannot trace it.
KERNELS = {
    name: frozenset(d for d in ("cpu", "meta", "cuda") if has_kernel(name, d)) for name in _COMPILED
}


def run(name: str, tensors: Sequence[Any], *args: Any) -> Any:
    """Calls `name` on its kernel or its twin; `tensors` are those that may carry gradients."""
    if torch.is_grad_enabled():
        for t in tensors:
            if getattr(t, "requires_grad", False):
                raise RuntimeError(
                    f"dpad.ops.{name} is for inference only and got a tensor that requires grad: "
                    "call it under torch.no_grad() or torch.inference_mode(), or detach the tensor"
                )
    # What is no tensor goes to the kernel, which refuses it by name.
    device = getattr(tensors[0], "device", _CPU).type if tensors else "cpu"
    op = _COMPILED[name] if device in KERNELS[name] else getattr(reference, name)
    return op(*args)
