"""Times a routed MLP of `route`, grouped products and `combine` against Transformers' own block.

The block is Qwen3MoeSparseMoeBlock (Transformers 5) with its loop over experts: 64 experts, of
which a row gets 8. Outputs are compared first, then all take turns; every figure is a ratio of one
run. "dpad" multiplies by `gated_product` and `grouped_product`, which choose; the other lines say
by what.

    python -m benchmarks.routed_mlp --threads 1 --json out.json
"""

from functools import partial

import torch
from torch.nn import functional as F
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from benchmarks.cases import Case, short
from benchmarks.ops import run
from dpad import ops
from dpad.models.linear_layers import gated_product, grouped_product

EXPERTS, TOP_K = 64, 8
SIZES = ((512, 256), (2048, 1024))  # hidden, width of an expert; the second is LLaDA-MoE's


def grouped_mm(x, weight, offsets):
    return F.grouped_mm(x, weight.transpose(1, 2), offs=offsets)


def routed(x, block, product=None):
    """The block's work by dpad's operators around `product`, or as a model's MLP does it."""
    router, experts = block.gate.weight, block.experts
    _, weight, order, offsets = ops.route(F.linear(x, router), None, TOP_K)
    row = order // TOP_K
    if product is None:
        y = gated_product(x, row, experts.gate_up_proj, offsets)
    else:
        y = ops.swiglu(*product(x[row], experts.gate_up_proj, offsets).chunk(2, -1))
    y = (product or grouped_product)(y, experts.down_proj, offsets)
    return ops.combine(y, order, weight, full_precision=False)


def distinct(x, router):
    """Rows whose choice no tie decides: 16-bit logits often tie, and torch.topk has no rule."""
    best = F.linear(x, router).topk(TOP_K + 1).values
    return x[best[:, -1] < best[:, -2]]


def name_of(rows, hidden, width, dtype):
    return f"routed MLP {rows} rows, {hidden} x {width} {short(dtype)}"


def case_of(rows, hidden, width, dtype):
    """One comparison, also with the block's own grouped products, and with others in ours."""
    sizes = {"hidden_size": hidden, "moe_intermediate_size": width}
    config = Qwen3MoeConfig(
        **sizes, num_experts=EXPERTS, num_experts_per_tok=TOP_K, norm_topk_prob=True
    )
    block = Qwen3MoeSparseMoeBlock(config)
    for parameter in block.parameters():
        parameter.normal_(0, parameter.shape[-1] ** -0.5)
    block = block.to(dtype)
    x = distinct(torch.randn(2 * rows, hidden).to(dtype), block.gate.weight)[None, :rows]

    def stock(way):
        config._experts_implementation = way
        return block(x)[0]

    functions = {
        "dpad": lambda: routed(x[0], block),
        "Transformers' loop over experts": lambda: stock("eager"),
        "Transformers' grouped_mm": lambda: stock("grouped_mm"),
        "dpad's operators and grouped_mm": lambda: routed(x[0], block, grouped_mm),
        "dpad's operators, grouped_linear": lambda: routed(x[0], block, ops.grouped_linear),
    }
    name = name_of(rows, hidden, width, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-6
    size = 3 * dtype.itemsize * EXPERTS * hidden * width  # about every expert is read
    return Case(name, functions, lambda: stock("eager"), tolerance, size)


if __name__ == "__main__":
    cases = (
        (rows, *size, dtype)
        for size in SIZES
        for dtype in (torch.float32, torch.bfloat16)
        for rows in (32, 256)
    )
    run(__doc__.splitlines()[0], [(name_of(*case), partial(case_of, *case)) for case in cases])
