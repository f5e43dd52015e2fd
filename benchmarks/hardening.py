"""What the hardening flags cost: operators built with and without them, in CPU time.

Two builds of `_C` cannot be loaded into one process, so a child for each takes its turn, round
after round. Every operator runs on the inputs of `dpad doctor`, where checks and calls weigh most;
attention, confidence and linear also at the sizes of a cached step of an 8 B model.

    make hardening                                       # builds both, then
    python -m benchmarks.hardening WITHOUT/_C.abi3.so    # against dpad's own
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import dpad
from benchmarks.stats import ratio

SECONDS = 0.2  # of CPU time for an operator's turn, about


def large():
    """(name, call) of kernels with real work."""
    from dpad import ops

    rows, heads, dim, keys = 32, 32, 128, 1024
    q = torch.randn(rows, heads, dim)
    k, v = torch.randn(2, heads, keys, dim)
    offsets, start, n = torch.tensor([0, rows]), torch.tensor([0]), torch.tensor([keys])
    x, weight = torch.randn(rows, 4096), torch.randn(4096, 4096)
    logits, index, none = torch.randn(8, 126464), torch.arange(8), torch.empty(0, dtype=torch.int64)
    rng, greedy = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    one = torch.tensor([0, 8])
    yield "attention, large", lambda: ops.block_attention(q, k, v, offsets, start, n, dim**-0.5)
    yield "linear, large", lambda: ops.linear(x, weight)
    yield (
        "confidence, large",
        lambda: ops.confidence(logits, one, index, rng, greedy, none, none),
    )


def small():
    """(name, call) of every operator on small inputs."""
    from dpad import ops
    from dpad.ops import inputs

    for name in inputs.NAMES:
        arguments = inputs.make(name)
        yield name, lambda name=name, args=arguments: getattr(ops, name)(**args)


def child(seconds):
    """Prints the CPU seconds of a call of every operator, as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {}
    with torch.inference_mode():
        for name, call in (*small(), *large()):
            call()
            turns, begun = 0, time.process_time()
            while turns < 3 or time.process_time() - begun < seconds:
                call()
                turns += 1
            found[name] = (time.process_time() - begun) / turns
    print(json.dumps(found))


def package(module, folder):
    """A copy of the package with another compiled module."""
    shutil.copytree(
        Path(dpad.__file__).parent,
        folder / "dpad",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    shutil.copy(module, folder / "dpad" / "_C.abi3.so")
    return folder


def measured(folder, seconds):
    path = os.pathsep.join((str(folder), str(Path(__file__).parents[1])))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.hardening", "--child"]
    command += ["--seconds", str(seconds)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", nargs="?", help="_C.abi3.so, built with -DDPAD_HARDEN=OFF")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of an operator's turn")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.seconds)
    if args.module is None:
        parser.error("name the module that was built without the flags")
    own = Path(dpad.__file__).parent / "_C.abi3.so"
    with tempfile.TemporaryDirectory() as with_flags, tempfile.TemporaryDirectory() as without:
        folders = package(own, Path(with_flags)), package(args.module, Path(without))
        rounds = []
        for number in range(args.rounds):
            found = {w: measured(folders[w], args.seconds) for w in ((0, 1), (1, 0))[number % 2]}
            rounds.append((found[0], found[1]))
    print("CPU time with the flags / without, 95 % interval over the rounds")
    for name in rounds[0][0]:
        value, low, high = ratio([a[name] for a, _ in rounds], [b[name] for _, b in rounds])
        print(f"  {name:20} {value:.3f} [{low:.3f}, {high:.3f}]")
    whole = [[sum(each.values()) for each in pair] for pair in rounds]
    print("  {:20} {:.3f} [{:.3f}, {:.3f}]".format("all", *ratio(*zip(*whole, strict=True))))
    return None


if __name__ == "__main__":
    main()
