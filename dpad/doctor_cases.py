"""Small, awkwardly shaped inputs for every operator, on which `dpad.doctor` compares kernels."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from dpad import ops
from dpad.ops import inputs

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Largest allowed difference between kernel and twin, as a share of the largest value: sums in
# another order for float32, a rounding step that falls the other way (twice in a row) for halves.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}
PLANNING = ("suffix_table", "transfer_schedule", "suffix_sample", "plan_pass")
VOCABULARY = 1003
WIDE_VOCABULARY = 16389  # a row that CUDA splits over three blocks
HEAD_DIMS = (40, 64, 128)  # the last two by tensor cores on CUDA, where the dtype allows


@dataclass
class Case:
    """Arguments of one call of an operator, by name, on the CPU.

    `dtype` is None where no floating-point argument has a choice. `tolerance` is 0 where kernel
    and twin give the same bits.
    """

    operator: str
    arguments: dict[str, Any]
    dtype: torch.dtype | None = None
    tolerance: float = field(init=False)

    def __post_init__(self) -> None:
        exact = self.operator not in inputs.ROUNDED
        # The results of these are wide for every dtype.
        wide = self.operator in ("confidence", "route")
        dtype = torch.float32 if wide else self.dtype
        self.tolerance = 0.0 if exact or dtype is None else TOLERANCE[dtype]


def _planning() -> Iterator[tuple[str, dict[str, Any]]]:
    table = {"grid": "repo", "window": 48, "decay": 3.0, "count": 9.0, "near": 3}
    for kind, scale in (("gaussian", 1.6), ("gaussian", -1.0), ("uniform", 0.0), ("window", 0.0)):
        drawn = {"kind": kind, "scale": scale, **table}
        yield "suffix_table", {**drawn, "length": 70}
        yield "suffix_sample", {"left": (66, 35, 1), "length": 66, **drawn}
    yield "transfer_schedule", {"masks": 33, "steps": 7}
    blocks = {"blocks": ((4, 9), (0, 5), (9, 16)), "kept": (3, 1, 0), "scope": (0, 1, 2)}
    for shift, block_length in ((0, 0), (1, 0), (1, 4)):
        yield "plan_pass", {**blocks, "shift": shift, "block_length": block_length}


def _integers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Operators whose tensors have one dtype, but for planning."""
    yield "suffix_gather", {"counts": (5, 8), "length": 40}
    yield "uniform", {"counts": (4, 2)}
    for rule, number in ops.RULES.items():
        rule_value = 0.8 if rule in ("threshold", "entropy_bound") else 1.2
        yield "unmask_", {"counts": (8, 8), "length": 40, "rule": number, "rule_value": rule_value}


def _floats() -> Iterator[tuple[str, dict[str, Any]]]:
    rows, heads = {"counts": (5, 8)}, {"heads": 6, "kv_heads": 2}
    rope = {**rows, **heads, "head_dim": 40, "turned": 20, "positions": 90, "capacity": 30}
    for full_precision in (True, False):
        yield "rope_kv_write_", {**rope, "full_precision": full_precision}
    for dim in HEAD_DIMS:
        for masks in (False, True):
            seen = {"keys": (141, 17), "mask": masks, "limit": masks}
            yield "block_attention", {**rows, **heads, "head_dim": dim, **seen}
    for given in (False, True):
        yield "add_rms_norm_", {"rows": 13, "width": 130, "delta": given}
        product = {"rows": 45, "in_features": 300, "out_features": 250, "bias": given}
        yield "linear", product
        yield "int8_linear", {**product, "smoothing": given}
    yield "swiglu", {"rows": 13, "width": 130}
    for score, groups, bias in (("softmax", 1, False), ("sigmoid", 8, True)):
        router = {"score": score, "groups": groups, "top_groups": min(groups, 3), "bias": bias}
        router |= {"rows": 21, "experts": 64, "top_k": 8, "normalise": groups > 1}
        yield "route", router
    for full_precision in (True, False):
        yield "combine", {"rows": 13, "top_k": 8, "width": 130, "full_precision": full_precision}
    experts = {"counts": (5, 0, 40), "in_features": 304}
    yield "grouped_linear", {**experts, "out_features": 250}
    yield "grouped_swiglu", {**experts, "rows": 23, "ffn": 250}
    for vocab in (VOCABULARY, WIDE_VOCABULARY):
        for temperature in (0.0, 0.7):
            hot = {"temperature": (0.0, temperature)}
            yield "confidence", {"counts": (4, 2), "vocab": vocab, **hot}


def cases(device_type: str) -> list[Case]:
    """Every case that runs on a device of this type; the same ones on every call."""
    planned = [] if device_type != "cpu" else list(_planning())
    found: list[tuple[str, torch.dtype | None, dict[str, Any]]]
    found = [(name, None, sizes) for name, sizes in (*planned, *_integers())]
    found += [(name, dtype, sizes) for dtype in DTYPES for name, sizes in _floats()]
    return [
        Case(name, inputs.make(name, seed, dtype or torch.float32, **sizes), dtype)
        for seed, (name, dtype, sizes) in enumerate(found)
    ]
