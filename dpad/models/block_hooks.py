"""Hooks on whole blocks, called around the rows of a pass that stand in for the block's call.

A hook sees the block itself, as input ``(hidden,)`` and as output what the block returns: hidden
states ``[rows, width]`` of all rows of the pass, of several sequences, each at its own position.
`rows_of_pass` tells which, while a hook runs.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_LOCAL = threading.local()


@dataclass(frozen=True)
class PassRows:
    """Whose the rows are that a hook sees, int64 ``[rows]`` each.

    `position` in its sequence, counted from the first token that is not padding; `sequence`: a
    number that a sequence keeps while it is decoded, in a call of ``generate`` that decodes all of
    its rows together the row's own. With guidance a sequence has its rows twice.
    """

    position: torch.Tensor
    sequence: torch.Tensor


def rows_of_pass() -> PassRows:
    """The `PassRows` of the pass whose hook is running in this thread.

    Raises:
        RuntimeError: no hook of a block is running on dpad's forward (it may run on the model's
            own, where ``hidden`` is ``[batch, length, width]``).
    """
    rows: PassRows | None = getattr(_LOCAL, "rows", None)
    if rows is None:
        raise RuntimeError("no hook on a block is running on dpad's forward in this thread")
    return rows


def are_on(module: nn.Module) -> bool:
    """Whether a block has hooks."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


@contextmanager
def _running(layout: Any) -> Iterator[None]:
    """Hooks are the caller's code: their tensors are ordinary ones, and they can ask for rows."""
    owners = getattr(layout, "canvas_row", None)
    if owners is None:
        owners = torch.arange(layout.kv_start.shape[0], device=layout.position.device)
    sequence = torch.repeat_interleave(owners, layout.q_offsets.diff())
    before, _LOCAL.rows = getattr(_LOCAL, "rows", None), PassRows(layout.position, sequence)
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        _LOCAL.rows = before


def before(module: nn.Module, hidden: torch.Tensor, layout: Any) -> torch.Tensor:
    """What the block's computation starts from, ``[rows, width]``, after its pre-hooks."""
    if not module._forward_pre_hooks:
        return hidden
    with _running(layout):
        args: tuple[Any, ...] = (hidden.clone(),)
        kwargs: dict[str, Any] = {}
        for number, hook in module._forward_pre_hooks.items():
            if number in module._forward_pre_hooks_with_kwargs:
                found = hook(module, args, kwargs)
                args, kwargs = (args, kwargs) if found is None else found
            else:
                found = hook(module, args)
                if found is not None:
                    args = found if isinstance(found, tuple) else (found,)
        return _checked(module, args[0], hidden).clone()


def after(
    module: nn.Module, given: torch.Tensor, hidden: torch.Tensor, layout: Any, in_tuple: bool
) -> torch.Tensor:
    """What goes on behind the block, after its hooks; `given` is what it started from."""
    if not module._forward_hooks:
        return hidden
    with _running(layout):
        args, changed = (given.clone(),), hidden.clone()
        output: Any = (changed,) if in_tuple else changed
        for number, hook in module._forward_hooks.items():
            with_kwargs = number in module._forward_hooks_with_kwargs
            found = hook(module, args, *([{}] if with_kwargs else []), output)
            output = output if found is None else found
        found = output[0] if isinstance(output, (tuple, list)) else output
        return _checked(module, found, hidden).clone()


def _checked(module: nn.Module, found: Any, hidden: torch.Tensor) -> torch.Tensor:
    good = isinstance(found, torch.Tensor) and found.shape == hidden.shape
    if not good or found.dtype != hidden.dtype:
        got = f"{list(found.shape)}, {found.dtype}" if hasattr(found, "shape") else repr(found)
        raise ValueError(
            f"a hook on a {type(module).__name__} returned {got}: expected hidden states "
            f"{list(hidden.shape)}, {hidden.dtype}"
        )
    return found
