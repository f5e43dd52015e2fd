"""Builds, tests, sanitizes and measures dpad on a machine with a GPU.

    python -m benchmarks.gpu --list                        the steps and their limits
    python -m benchmarks.gpu --out results --part 1        build and operator tests
    python -m benchmarks.gpu --out results --part 2        generation tests, compute-sanitizer
    python -m benchmarks.gpu --out results --part 3        benchmarks and plots

A part takes at most 10 minutes, all of them 25. Nothing is downloaded: torch, a CUDA compiler,
CMake, ninja, pybind11, pytest, hypothesis, numpy, safetensors, transformers and matplotlib have to
be there; `--wheels` adds packages from wheels in a folder (fmt, as cmeel-fmt, where it is missing).
The folder then holds report.json (every step), machine.json, operators.json, step.json, two plots
and log.txt.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu import steps


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, help="folder of the results; created if it is not there")
    add("--part", type=int, choices=steps.PARTS, help="the steps of one command of 10 minutes")
    add("--steps", nargs="+", choices=steps.NAMES, metavar="STEP", help="single steps, by name")
    add("--wheels", type=Path, help="folder of wheels to install beside the results")
    add("--list", action="store_true", help="print the steps and end")
    options = parser.parse_args(arguments)
    if options.list:
        return options
    if options.out is None:
        parser.error("--out is missing: name the folder of the results")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is not a folder")
    if options.part is not None and options.steps:
        parser.error("--part and --steps exclude each other")
    if options.wheels is not None and not list(options.wheels.glob("*.whl")):
        parser.error(f"--wheels {options.wheels} holds no wheel")
    return options


def table():
    """The steps as text."""
    lines = [f"{'part':4}  {'step':16}  {'limit':>7}  command"]
    for part in steps.PARTS:
        chosen = [s for s in steps.STEPS if s.part == part]
        lines += [f"{part:4}  {s.name:16}  {s.limit:5} s  {' '.join(s.command)}" for s in chosen]
        lines.append(f"{'':4}  {'':16}  {sum(s.limit for s in chosen):5} s  in all")
    return "\n".join(lines)


def chosen(options):
    names = options.steps or [
        s.name for s in steps.STEPS if options.part is None or s.part == options.part
    ]
    return [s for s in steps.STEPS if s.name in names]


def architecture():
    """Of the first CUDA device, for the build, or None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return "{}{}".format(*torch.cuda.get_device_capability(0))


def install(wheels, out):
    """Wheels into a folder of the results, which this program's steps then see."""
    site = (out / "site").resolve()
    files = [str(path) for path in sorted(wheels.glob("*.whl"))]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*command, "--upgrade", "--target", str(site), *files], check=True)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), before] if before else [str(site)])
    os.environ["CMAKE_PREFIX_PATH"] = str(site / "cmeel.prefix")


def main(arguments=None):
    options = parse(arguments)
    if options.list:
        print(table())
        return 0
    arch = architecture()
    if arch is None:
        print("no CUDA device: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not installed", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    if options.wheels is not None:
        install(options.wheels, options.out)
    report, worst = steps.Report(options.out), 0
    for step in chosen(options):
        print(f"{step.name} (at most {step.limit} s) ...", flush=True)
        status = steps.run(step, options.out, arch, report)
        print(f"{step.name}: {status}", flush=True)
        if status != "passed":
            worst = 1
            print(report.steps[step.name].get("output", report.steps[step.name].get("reason")))
    return worst


if __name__ == "__main__":
    sys.exit(main())
