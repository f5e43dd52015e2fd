"""Builds, tests, sanitizes and measures dpad on a machine with a GPU.

    python -m benchmarks.gpu --list                           the steps and their limits
    python -m benchmarks.gpu --out results --part 1           build, operator tests, memcheck
    python -m benchmarks.gpu --out results --part 2           steps, decodings, measurements
    python -m benchmarks.gpu --out results --part 3           other sanitizers and tests
    python -m benchmarks.gpu --out results --budget 420       what fits, and then the rest:
    python -m benchmarks.gpu --out results --budget 420
    python -m benchmarks.gpu --out results --small            try it on the CPU

A part takes at most 10 minutes, all of them 25. With --budget the steps run in their order, what
tells most first, until the seconds are over; the next such command goes on behind those that have
run, with the cases that were left out (only the build is looked after again). Two of 420 s each
give the build, the operator tests, memcheck and the main benchmarks. Figures that the folder
already holds are kept, if device, torch and commit are the same: begin with an empty one. Every
command ends with the summary and the plots of what is there.

Nothing is downloaded: torch, a CUDA compiler, CMake, ninja, pybind11, pytest, hypothesis, numpy,
safetensors, transformers and matplotlib have to be there; `--wheels` adds packages from wheels in a
folder (fmt, as cmeel-fmt, where it is missing), which go to build/wheels. The folder then holds
report.json (every step), machine.json, operators.json, step.json, generate.json, throughput.json,
measurements.json, goals.json, summary.md, plots and log.txt.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu import needs, steps


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
    add("--budget", type=float, metavar="SECONDS", help="go on where the last such command ended")
    add("--wheels", type=Path, help="folder of wheels to install for these steps")
    add("--small", action="store_true", help="tiny shapes on the CPU, to try the program")
    add("--list", action="store_true", help="print the steps and end")
    options = parser.parse_args(arguments)
    if options.list:
        return options
    if options.out is None:
        parser.error("--out is missing: name the folder of the results")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is not a folder")
    given = [n for n in ("part", "steps", "budget") if getattr(options, n) is not None]
    if len(given) > 1:
        parser.error(f"--{given[0]} and --{given[1]} exclude each other")
    if options.budget is not None and options.budget <= steps.RESERVE:
        parser.error(f"--budget {options.budget:g}: expected more than {steps.RESERVE} seconds")
    if options.wheels is not None and not list(options.wheels.glob("*.whl")):
        parser.error(f"--wheels {options.wheels} holds no wheel")
    return options


def table():
    """The steps as text."""
    lines = [f"{'part':4}  {'step':16}  {'limit':>7}  command"]
    for part in steps.PARTS:
        some = [s for s in steps.STEPS if s.part == part]
        lines += [f"{part:4}  {s.name:16}  {s.limit:5} s  {' '.join(s.command)}" for s in some]
        total = sum(s.limit for s in some) + steps.RESERVE
        lines.append(f"{'':4}  {'':16}  {total:5} s  in all, with summary and plots")
    return "\n".join(lines)


def chosen(options, report):
    """The steps of this command, in order."""
    found = [s for s in steps.STEPS if s.tries_small or not options.small]
    if options.steps is not None:
        return [s for s in found if s.name in options.steps]
    if options.part is not None:
        return [s for s in found if s.part == options.part]
    if options.budget is not None:
        return [s for s in found if not report.done(s)]
    return found


def architecture():
    """Of the first CUDA device, for the build, or None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return "{}{}".format(*torch.cuda.get_device_capability(0))


def install(wheels):
    """Wheels into build/wheels, which this program's steps then see."""
    site = steps.ROOT / "build" / "wheels"
    files = [str(path) for path in sorted(wheels.glob("*.whl"))]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*command, "--upgrade", "--target", str(site), *files], check=True)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), before] if before else [str(site)])
    os.environ["CMAKE_PREFIX_PATH"] = str(site / "cmeel.prefix")
    sys.path.insert(0, str(site))


def run_all(options, arch, report):
    """Runs the steps of the command and what ends it; 1 if one has not passed."""
    begun, worst = time.monotonic(), 0
    some = chosen(options, report)
    for step in (*some, *steps.LAST):
        left = None
        if options.budget is not None:
            reserve = 0 if step in steps.LAST else steps.RESERVE
            left = options.budget - (time.monotonic() - begun) - reserve
        limit = step.limit if left is None else max(0, int(min(left, step.limit)))
        print(f"{step.name} (at most {limit} s) ...", flush=True)
        status = steps.run(step, options.out, arch, report, left, options.small)
        record = report.steps[step.name]
        print(f"{step.name}: {status}, {record.get('seconds', 0):g} s", flush=True)
        worst = max(worst, int(status != "passed"))
        if status != "passed" or step in steps.LAST:
            print(record.get("output", record.get("reason")), flush=True)
    return worst


def main(arguments=None):
    options = parse(arguments)
    if options.list:
        print(table())
        return 0
    arch = "0" if options.small else architecture()
    if arch is None:
        print("no CUDA device: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    needs.look_further()
    if options.wheels is not None:
        install(options.wheels)
    absent = None if options.small else needs.missing()
    if absent is not None:
        print(absent, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    return run_all(options, arch, steps.Report(options.out))


if __name__ == "__main__":
    sys.exit(main())
