"""Times `confidence`, `block_attention` and `linear` on a CPU against the same in plain torch.

    python -m benchmarks.ops --threads 2 --json out.json

Every figure is a ratio measured in one run: outputs are compared first, then our operator and all
of torch's expressions (`benchmarks.cases`) take turns, and the medians are divided.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

from benchmarks import cases
from benchmarks.machine import cpu_model
from benchmarks.store import write_json
from benchmarks.timing import Timer, summary
from dpad import ops

LAYERS = ((256, 126464), (4096, 4096), (4096, 12288), (12288, 4096))
DTYPES = (torch.float32, torch.bfloat16)
CASES = (
    ("confidence", (32, 126464), {}),
    *(
        ("attention", (1, 32, 32, 32, keys), {"dtype": dtype})
        for keys in (1024, 4096)
        for dtype in DTYPES
    ),
    *(("linear", (rows, *sizes), {}) for sizes in LAYERS for rows in (32, 33, 96, 256)),
    ("linear", (32, 4096, 4096), {"dtype": torch.float16}),
)


def measure(case, repeats):
    """Milliseconds of every function, taken in turns so that all meet the same conditions."""
    case.check()
    times = Timer("cpu").turns(case.functions, repeats, warm_up=2)
    return {name: [1e3 * seconds for seconds in values] for name, values in times.items()}


def report(case, times):
    """Prints one case; returns it as JSON values."""
    rows, lines, ratios = {name: summary(values) for name, values in times.items()}, {}, {}
    ours = rows["dpad"]
    for name in list(rows)[1:]:
        lines.setdefault(name.partition(":")[0], []).append(name)
    print(case.name)
    print(f"  {'dpad':36} {ours['median']:8.2f} ms  ({ours['p10']:.2f} .. {ours['p90']:.2f})")
    for line, names in lines.items():
        best = min(names, key=lambda name: rows[name]["median"])
        theirs = rows[best]
        ratio, fastest = (theirs[key] / ours[key] for key in ("median", "fastest"))
        ratios[line] = {"ratio": ratio, "ratio_fastest": fastest, "expression": best}
        spread = f"({theirs['p10']:.2f} .. {theirs['p90']:.2f})"
        text = f"{ratio:.2f}x, fastest turns {fastest:.2f}x"
        print(f"  {line:36} {theirs['median']:8.2f} ms  {spread}  {text}", flush=True)
    for name, why in case.unavailable.items():
        print(f"  {name:36} not timed: {why}", flush=True)
    return {"case": case.name, "milliseconds": rows, "ratios": ratios}


def run(description, makers, arguments=None):
    """A program that times comparisons; `makers`: their names, and functions that make them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch's pool")
    parser.add_argument("--repeats", type=int, default=21, help="timed turns of every function")
    parser.add_argument("--isa", help="portable, avx2 or avx512; the best one by default")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args(arguments)
    if args.threads < 1 or args.repeats < 2:
        parser.error("--threads must be at least 1 and --repeats at least 2")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.isa:
        ops.set_cpu_isa(args.isa)
    machine = {"processor": cpu_model(), "threads": args.threads, "torch": torch.__version__}
    machine["isa"] = ops.cpu_isa()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    found = []
    with torch.inference_mode():
        for name, make in makers:
            if args.only in name:
                case = make()
                found.append(report(case, measure(case, args.repeats)))
    if args.json:
        write_json(args.json, {"machine": machine, "cases": found})


if __name__ == "__main__":
    run(
        __doc__.splitlines()[0],
        [(name, partial(cases.MAKERS[name], "cpu", *sizes, **how)) for name, sizes, how in CASES],
    )
