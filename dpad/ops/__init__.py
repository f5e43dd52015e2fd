"""The operators, as typed functions.

Each calls its kernel (`torch.ops.dpad.<name>`) where one exists for the tensors' device, else its
plain-torch twin in `dpad.ops.reference`. They are for inference: a tensor that requires grad is
refused while gradients are recorded. They may be used in ``torch.compile(fullgraph=True)`` where
they have a kernel.

A *pass* is a flat list of rows, grouped by sequence: the rows of sequence b are
``[q_offsets[b], q_offsets[b + 1])`` and look at its slots ``[0, n_keys[b])``. *Logit rows* are the
rows whose hidden states reach the head; those of sequence b are
``[l_offsets[b], l_offsets[b + 1])``. Index tensors are int64. K and V of all sequences lie in one
arena each, ``[num_kv_heads, slots, head_dim]``, K stored after RoPE: slot i of sequence b is slot
``kv_start[b] + i`` of the arena. Its last dimension is contiguous. Floating-point arguments
are float32, bfloat16 or float16, all of one dtype. Bad arguments raise RuntimeError naming the
operator, the argument and the value, before any work; on CUDA values are not read back, so a row
whose index is out of range is skipped, and `unmask_` reports the status "invalid" or "nan".
"""

import torch

from dpad.ops import reference
from dpad.ops._load import build_info, has_kernel, loaded, told
from dpad.ops._names import RULES, SCOPES, STATUS, STOPS
from dpad.ops.layers import (
    add_rms_norm_,
    block_attention,
    int8_linear,
    linear,
    rope_kv_write_,
    suffix_gather,
    swiglu,
)
from dpad.ops.planning import plan_pass, suffix_sample, suffix_table, transfer_schedule
from dpad.ops.routing import combine, grouped_linear, grouped_swiglu, route
from dpad.ops.sampling import confidence, uniform, unmask_

__all__ = [
    "RULES",
    "SCOPES",
    "STATUS",
    "STOPS",
    "add_rms_norm_",
    "block_attention",
    "build_info",
    "combine",
    "confidence",
    "cpu_extensions",
    "cpu_isa",
    "grouped_linear",
    "grouped_swiglu",
    "has_kernel",
    "int8_linear",
    "linear",
    "loaded",
    "plan_pass",
    "reference",
    "rope_kv_write_",
    "route",
    "set_cpu_isa",
    "suffix_gather",
    "suffix_sample",
    "suffix_table",
    "swiglu",
    "transfer_schedule",
    "uniform",
    "unmask_",
]


def cpu_extensions() -> set[str]:
    """What the CPU kernels use beyond `cpu_isa`, a set of names: "avx512vnni" for `int8_linear`,
    "avx512bf16" for `linear` in bfloat16.
    """
    return set(told("cpu_extensions").split()) if loaded("_C") else set()


def cpu_isa() -> str:
    """Instruction set of the CPU kernels in use: "avx512", "avx2", "portable", or "torch"."""
    return told("cpu_isa") if loaded("_C") else "torch"


def set_cpu_isa(name: str) -> None:
    """Chooses the instruction set of the CPU kernels; RuntimeError where it is not supported."""
    if not loaded("_C"):
        raise RuntimeError("dpad.ops.set_cpu_isa: the compiled module is not loaded")
    torch.ops.dpad.set_cpu_isa.default(name)
    told.cache_clear()
