"""Builds, tests, sanitizes and measures dpad on a machine with a GPU.

    python -m benchmarks.gpu --out results --budget 560     what fits, first what tells most
    python -m benchmarks.gpu --out results --budget 560     the rest
    python -m benchmarks.gpu --out results --small          tiny shapes, on the CPU too
    python -m benchmarks.gpu --out results -k step_times    single stages: pytest's own options

Begin with an empty folder: figures that are there are kept, if device, torch and commit are the
same. Afterwards it holds stages.json, figures.json, summary.md and log.txt.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import stages, summary

RESERVE = 30  # seconds that are kept for the summary
PACKAGES = "hypothesis matplotlib pybind11 safetensors setuptools tabulate transformers"


def look_further():
    """Adds this Python's scripts (cmake, ninja) and CUDA's programs to the end of PATH."""
    cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    more = [os.path.dirname(sys.executable), os.path.join(cuda, "bin")]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *more])


def missing():
    """Names of what the stages need and this machine lacks."""
    absent = [name for name in PACKAGES.split() if importlib.util.find_spec(name) is None]
    absent += [name for name in ("cmake", "nvcc") if shutil.which(name) is None]
    return absent + ([] if torch.cuda.is_available() else ["a CUDA device"])


def main(arguments=None):
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__, **raw)
    add, begun = parser.add_argument, time.monotonic()
    add("--out", type=Path, required=True, help="folder of the results; made if it is not there")
    add("--budget", type=float, metavar="SECONDS", help="time for all; without it, what it takes")
    add("--small", action="store_true", help="tiny shapes, on the CPU too, to try the program")
    options, rest = parser.parse_known_args(arguments)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is not a folder")
    if options.budget is not None and options.budget <= RESERVE:
        parser.error(f"--budget {options.budget:g}: expected more than {RESERVE} seconds")
    look_further()
    if not options.small and missing():
        print(f"not there: {', '.join(missing())}", file=sys.stderr)
        return 2
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not options.small and stages.build(out / "log.txt", options.budget) != 0:
        print(f"the build has failed: {out / 'log.txt'}", file=sys.stderr)
        return 1
    command = [stages.__file__, "--figures", str(out / "stages.json"), "-vv", "-rs", "--tb=short"]
    command += ["-p", "no:cacheprovider", *["--small"] * options.small, *rest]
    if options.budget is not None:
        left = options.budget - RESERVE - (time.monotonic() - begun)
        command += ["--seconds", str(left)]
    status = pytest.main(command)
    return summary.main([str(out)]) or int(status)


if __name__ == "__main__":
    sys.exit(main())
