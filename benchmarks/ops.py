"""Times `confidence`, `block_attention` and `linear` against the same work in plain torch.

Every figure is a ratio measured in one run: outputs are compared first, then our operator and all
of torch's expressions take turns, and the medians are divided. Torch's expressions:

* confidence, 32 x 126464 logits: soft-max, argmax and gather in float64 with the conversion, as the
  published samplers do it; and several float32 expressions, of which the fastest counts.
* block_attention, 32 queries, 32 heads of 128: scaled_dot_product_attention on tensors of the exact
  length, and on the whole cache with a dense mask.
* linear, 32 to 256 rows by the layers of an 8 B model and by a large vocabulary: F.linear.

    python -m benchmarks.ops --threads 2 --json out.json
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from benchmarks.machine import cpu_model
from benchmarks.timing import Timer, summary
from dpad import ops


@dataclass
class Case:
    """One comparison; every function takes nothing and returns its result."""

    name: str
    ours: callable
    theirs: dict = field(default_factory=dict)  # label -> function
    groups: dict = field(default_factory=dict)  # reported line -> labels, of which the fastest


def confidence_case(dtype, rows=32, vocab=126464):
    """Greedy token and its probability."""
    logits = (torch.randn(rows, vocab) * 4).to(dtype)
    none = torch.empty(0, dtype=torch.int64)
    index = torch.arange(rows)
    offsets = torch.tensor([0, rows])
    rng, greedy = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)

    def ours():
        return ops.confidence(logits, offsets, index, rng, greedy, none, none)[:2]

    def float64():
        p = torch.softmax(logits.to(torch.float64), dim=-1)
        token = p.argmax(-1)
        return token, p.gather(-1, token[:, None])[:, 0]

    def logsumexp():
        wide = logits.float()
        best, token = wide.max(-1)
        return token, torch.exp(best - torch.logsumexp(wide, -1))

    def softmax():
        p, token = torch.softmax(logits.float(), dim=-1).max(-1)
        return token, p

    def log_softmax():
        p, token = torch.log_softmax(logits, dim=-1, dtype=torch.float32).max(-1)
        return token, p.exp()

    def exp_sum():
        wide = logits.float()
        best, token = wide.max(-1, keepdim=True)
        return token[:, 0], 1 / wide.sub_(best).exp_().sum(-1)

    case = Case(
        f"confidence {rows} x {vocab} {short(dtype)}",
        ours,
        {f.__name__: f for f in (float64, logsumexp, softmax, log_softmax, exp_sum)},
        {
            "float64 soft-max + argmax + gather": ["float64"],
            "best float32 expression": ["logsumexp", "softmax", "log_softmax", "exp_sum"],
        },
    )
    token, probability = float64()
    for name, function in {"ours": ours, **case.theirs}.items():
        got_token, got = function()
        error = ((got - probability).abs() / probability).max().item()
        require(torch.equal(got_token, token), f"{case.name}, {name}: tokens differ")
        limit = 1e-6 if name == "ours" else 1e-4  # torch's float32 soft-max is off by 2e-5
        require(error < limit, f"{case.name}, {name}: probability off by {error:.1e}")
    return case


def attention_case(dtype, keys, queries=32, heads=32, dim=128, spare=128):
    """One block of one sequence over its cache, which has room for `spare` more keys."""
    q = torch.randn(queries, heads, dim).to(dtype)
    k_cache, v_cache = (torch.randn(1, heads, keys + spare, dim).to(dtype) for _ in range(2))
    k, v = (cache[:, :, :keys].contiguous() for cache in (k_cache, v_cache))
    flat = q.transpose(0, 1)[None].contiguous()
    offsets, start, n_keys = torch.tensor([0, queries]), torch.tensor([0]), torch.tensor([keys])
    mask = (torch.arange(keys + spare) < keys).expand(1, 1, queries, -1).contiguous()

    def ours():
        return ops.block_attention(q, k_cache[0], v_cache[0], offsets, start, n_keys, dim**-0.5)

    def exact():
        return scaled_dot_product_attention(flat, k, v)

    def masked():
        return scaled_dot_product_attention(flat, k_cache, v_cache, attn_mask=mask)

    case = Case(
        f"block_attention {queries} queries, {keys} keys, {heads} x {dim} {short(dtype)}",
        ours,
        {"exact": exact, "masked": masked},
        {"SDPA, exact length": ["exact"], "SDPA, dense mask": ["masked"]},
    )
    want = scaled_dot_product_attention(flat.double(), k.double(), v.double())[0].transpose(0, 1)
    error = (ours().double() - want).abs().max().item()
    allowed = 2 * (exact()[0].transpose(0, 1).double() - want).abs().max().item()
    require(error <= allowed, f"{case.name}: error {error:.1e}, allowed {allowed:.1e}")
    return case


def linear_case(rows, depth, width, dtype=torch.float32):
    """The rows of a cached step by one weight."""
    x = torch.randn(rows, depth).to(dtype)
    weight = (torch.randn(width, depth) / depth**0.5).to(dtype)

    def ours():
        return ops.linear(x, weight)

    def theirs():
        return linear(x, weight)

    case = Case(
        f"linear {rows} rows x {depth} x {width} {short(dtype)}",
        ours,
        {"linear": theirs},
        {"torch's linear": ["linear"]},
    )
    some = torch.randperm(width)[:500]
    want = x.double() @ weight[some].double().T
    error = (ours()[:, some].double() - want).abs().max().item()
    allowed = 2 * (theirs()[:, some].double() - want).abs().max().item()
    require(error <= allowed, f"{case.name}: error {error:.1e}, allowed {allowed:.1e}")
    return case


def require(condition, message):
    """Stops the benchmark: a ratio between different results means nothing."""
    if not condition:
        raise SystemExit(f"outputs differ, nothing was timed: {message}")


def short(dtype):
    """ "float32" of torch.float32."""
    return str(dtype).removeprefix("torch.")


def measure(case, repeats):
    """Milliseconds of every function, taken in turns so that all meet the same conditions."""
    times = Timer("cpu").turns({"ours": case.ours, **case.theirs}, repeats, warm_up=2)
    return {name: [1e3 * seconds for seconds in values] for name, values in times.items()}


def report(case, times):
    """Prints one case; returns it as JSON values."""
    rows = {name: summary(values) for name, values in times.items()}
    ours = rows["ours"]
    print(case.name)
    print(f"  {'dpad':36} {ours['median']:8.2f} ms  ({ours['p10']:.2f} .. {ours['p90']:.2f})")
    ratios = {}
    for line, labels in case.groups.items():
        best = min(labels, key=lambda label: rows[label]["median"])
        theirs = rows[best]
        ratio, fastest = (theirs[key] / ours[key] for key in ("median", "fastest"))
        ratios[line] = {"ratio": ratio, "ratio_fastest": fastest, "expression": best}
        spread = f"({theirs['p10']:.2f} .. {theirs['p90']:.2f})"
        text = f"{ratio:.2f}x, fastest turns {fastest:.2f}x"
        print(f"  {line:36} {theirs['median']:8.2f} ms  {spread}  {text}", flush=True)
    return {"case": case.name, "milliseconds": rows, "ratios": ratios}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch's pool")
    parser.add_argument("--repeats", type=int, default=21, help="timed turns of every function")
    parser.add_argument("--isa", help="portable, avx2 or avx512; the best one by default")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if args.threads < 1 or args.repeats < 2:
        parser.error("--threads must be at least 1 and --repeats at least 2")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.isa:
        ops.set_cpu_isa(args.isa)
    machine = {"processor": cpu_model(), "threads": args.threads, "torch": torch.__version__}
    machine["isa"] = ops.cpu_isa()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    dtypes = (torch.float32, torch.bfloat16)
    makers = [("confidence", lambda d=d: confidence_case(d)) for d in (torch.bfloat16,)]
    makers += [
        ("block_attention", lambda d=d, n=n: attention_case(d, n))
        for n in (1024, 4096)
        for d in dtypes
    ]
    makers += [
        ("linear", lambda m=rows, s=sizes: linear_case(m, *s))
        for sizes in ((256, 126464), (4096, 4096), (4096, 12288), (12288, 4096))
        for rows in (32, 33, 96, 256)
    ]
    makers.append(("linear", lambda: linear_case(32, 4096, 4096, torch.float16)))
    results = []
    for name, make in makers:
        if args.only in name:
            case = make()
            results.append(report(case, measure(case, args.repeats)))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
