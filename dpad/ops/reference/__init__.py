"""Plain-torch twins of every operator: their specification, the fallback, and the test oracle.

Same arguments and results as the functions of `dpad.ops`, without argument checks. They run on any
device; planning runs on the CPU.
"""

from dpad.ops.reference.layers import (
    add_rms_norm_,
    block_attention,
    int8_linear,
    linear,
    rope_kv_write_,
    suffix_gather,
    swiglu,
)
from dpad.ops.reference.planning import plan_pass, suffix_sample, suffix_table, transfer_schedule
from dpad.ops.reference.routing import combine, grouped_linear, grouped_swiglu, route
from dpad.ops.reference.sampling import confidence, gumbel, uniform, unmask_

__all__ = [
    "add_rms_norm_",
    "block_attention",
    "combine",
    "confidence",
    "grouped_linear",
    "grouped_swiglu",
    "gumbel",
    "int8_linear",
    "linear",
    "plan_pass",
    "rope_kv_write_",
    "route",
    "suffix_gather",
    "suffix_sample",
    "suffix_table",
    "swiglu",
    "transfer_schedule",
    "uniform",
    "unmask_",
]
