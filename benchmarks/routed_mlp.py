"""Times a routed MLP of `route`, grouped products and `combine` against Transformers' own block.

The block is Qwen3MoeSparseMoeBlock (Transformers 5) with its loop over experts: 64 experts, of
which a row gets 8. Outputs are compared first, then all take turns; every figure is a ratio of one
run. "dpad" multiplies by `grouped_product`, which chooses; the other lines say by what.

    python -m benchmarks.routed_mlp --threads 1 --json out.json
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from benchmarks.machine import cpu_model
from benchmarks.ops import Case, measure, report, require, short
from dpad import ops
from dpad.models.linear_layers import grouped_product

EXPERTS, TOP_K = 64, 8
SIZES = ((512, 256), (2048, 1024))  # hidden, width of an expert; the second is LLaDA-MoE's


def grouped_mm(x, weight, offsets):
    return F.grouped_mm(x, weight.transpose(1, 2), offs=offsets)


def routed(x, block, product):
    """The block's work by dpad's operators around `product`."""
    router, experts = block.gate.weight, block.experts
    _, weight, order, offsets = ops.route(F.linear(x, router), None, TOP_K)
    gate, up = product(x[order // TOP_K], experts.gate_up_proj, offsets).chunk(2, -1)
    y = product(ops.swiglu(gate, up), experts.down_proj, offsets)
    return ops.combine(y, order, weight, full_precision=False)


def distinct(x, router):
    """Rows whose choice no tie decides: 16-bit logits often tie, and torch.topk has no rule."""
    best = F.linear(x, router).topk(TOP_K + 1).values
    return x[best[:, -1] < best[:, -2]]


def case_of(rows, hidden, width, dtype):
    """One comparison; a third function is the same block with its own grouped products."""
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
        "loop": lambda: stock("eager"),
        "stock grouped_mm": lambda: stock("grouped_mm"),
        "by grouped_mm": lambda: routed(x[0], block, grouped_mm),
        "by grouped_linear": lambda: routed(x[0], block, ops.grouped_linear),
    }
    groups = {
        "Transformers' loop over experts": ["loop"],
        "Transformers' grouped_mm": ["stock grouped_mm"],
        "dpad's operators and grouped_mm": ["by grouped_mm"],
        "dpad's operators, grouped_linear": ["by grouped_linear"],
    }
    name = f"routed MLP {rows} rows, {hidden} x {width} {short(dtype)}"
    return Case(name, lambda: routed(x[0], block, grouped_product), functions, groups)


def check(case, tolerance):
    want = case.theirs["loop"]()
    for name, function in {"ours": case.ours, **case.theirs}.items():
        error = (function().double() - want.double()).abs().max().item()
        allowed = tolerance * want.double().abs().max().item()
        require(error <= allowed, f"{case.name}, {name}: error {error:.1e}, allowed {allowed:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch's pool")
    parser.add_argument("--repeats", type=int, default=21, help="timed turns of every function")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if args.threads < 1 or args.repeats < 2:
        parser.error("--threads must be at least 1 and --repeats at least 2")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    machine = {"processor": cpu_model(), "threads": args.threads, "torch": torch.__version__}
    machine["isa"] = ops.cpu_isa()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = []
    for hidden, width in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            for rows in (32, 256):
                case = case_of(rows, hidden, width, dtype)
                if args.only in case.name:
                    check(case, 1e-5 if dtype == torch.float32 else 2**-6)
                    results.append(report(case, measure(case, args.repeats)))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
