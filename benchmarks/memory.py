"""Peak memory of one decoding, against what must be held: weights, K/V, and one pass.

    python -m benchmarks.memory [--canvas 1024] [--cache none] [--dtype float32] [--width 1024]

A random LLaDA decodes one row on Linux; memory is the process's resident set, its interpreter and
libraries (what there is before the model is made) not counted. A short decoding comes first, so
that what libraries take once is there. Without arguments, four cases run in a process each.
"""

import argparse
import json
import subprocess
import sys

import torch

from benchmarks import random_models
from dpad import memory
from dpad.models.adapter import find_adapter

CASES = [("1024", "none", "float32"), ("1024", "dual", "float32"), ("256", "none", "float32"),
         ("1024", "none", "bfloat16")]  # fmt: skip
OPTIONS = {"max_new_tokens": 64, "block_length": 32, "steps": 8}
MIB = 2**20


def measure(canvas, cache, dtype, width):
    """MiB: "weights", "kv", "pass" as the engine counts them, "peak" over all but the model, and
    the "ratio" of the peak to the three.
    """
    model = random_models.mid_model(width).to(getattr(torch, dtype))
    needed = memory.counted(find_adapter(model), canvas, OPTIONS["block_length"])
    peak = memory.measured(model, canvas, **OPTIONS, cache=cache)
    found = {name: needed[name] / MIB for name in ("weights", "kv", "pass")}
    return {**found, "peak": peak / MIB, "ratio": peak / needed["total"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canvas", type=int)
    parser.add_argument("--cache", choices=("none", "prefix", "dual"), default="none")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--width", type=int, default=1024)
    chosen = parser.parse_args()
    if chosen.canvas is not None:
        print(json.dumps(measure(chosen.canvas, chosen.cache, chosen.dtype, chosen.width)))
        return
    for canvas, cache, dtype in CASES:
        command = [sys.executable, "-m", "benchmarks.memory", "--canvas", canvas, "--cache", cache]
        command += ["--dtype", dtype, "--width", str(chosen.width)]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        shown = ", ".join(f"{n} {v:.0f}" for n, v in found.items() if n != "ratio")
        print(f"canvas {canvas}, cache {cache}, {dtype}: {shown} MiB; {found['ratio']:.2f}x")


if __name__ == "__main__":
    main()
