"""Inputs of every operator, made to size: for `dpad.doctor`, the tests and the benchmarks.

`make` gives the arguments of a valid call by name, in the order of the schema. Sizes are options;
values come from a generator. Counts are rows of each sequence.
"""

from collections.abc import Callable
from typing import Any

import torch

from dpad.ops.inputs import layers, planning, routing, sampling
from dpad.ops.inputs.values import Arguments

__all__ = ["NAMES", "ROUNDED", "WRITTEN", "make"]

_MAKERS: dict[str, Callable[..., Arguments]] = {
    f.__name__: f
    for f in (
        planning.suffix_table,
        planning.transfer_schedule,
        planning.suffix_sample,
        planning.plan_pass,
        layers.suffix_gather,
        layers.rope_kv_write_,
        layers.block_attention,
        layers.add_rms_norm_,
        layers.swiglu,
        layers.linear,
        layers.int8_linear,
        routing.route,
        routing.grouped_linear,
        routing.grouped_swiglu,
        routing.combine,
        sampling.confidence,
        sampling.uniform,
        sampling.unmask_,
    )
}
NAMES = tuple(_MAKERS)
# Arguments that are written.
WRITTEN = {
    "rope_kv_write_": ("k_cache", "v_cache"),
    "add_rms_norm_": ("residual",),
    "unmask_": ("canvas", "committed_at", "committed", "masks_left", "status", "forward"),
}
# Operators that sum or round in another order than their twins; the others give the same bits.
ROUNDED = (
    *("block_attention", "add_rms_norm_", "swiglu", "linear", "route", "grouped_linear"),
    *("grouped_swiglu", "confidence"),
)


def make(
    name: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    /,
    device: torch.device | str = "cpu",
    **sizes: Any,
) -> Arguments:
    """Arguments of a valid call of operator `name`, the same ones for the same seed and sizes."""
    with torch.device(device):
        return _MAKERS[name](torch.Generator(device).manual_seed(seed), dtype, **sizes)
