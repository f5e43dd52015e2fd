"""Runs the checks and prints their figures: ``python -m tests.trust [CHECK ...] --seed N``.

Without a name all of them run, at the sizes that docs/reliability.md gives.
"""

import argparse
import sys

from tests.trust import allocations, faults, hostile, lasting, malformed, valid

# Check -> what runs it, and its cases in `make trust`.
CHECKS = {
    "valid": (valid.run, 5000),
    "repeats": (valid.run_repeats, 200),
    "malformed": (malformed.run, 100_000),
    "operators": (faults.run_operators, 20),
    "engine": (faults.run_engine, 20),
    "allocations": (allocations.run, 10),
    "interrupts": (faults.run_interrupts, 200),
    "leaks": (lasting.run_leaks, 5000),
    "patches": (lasting.run_patches, 1000),
    "generates": (lasting.run_generates, 10_000),
    "threads": (lasting.run_threads, 120),
    "arguments": (hostile.run_arguments, len(hostile.CASES)),
    "folders": (hostile.run_folders, 400),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="*", choices=[*CHECKS, []], help="all of them without one")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--cases", type=int, help="how many; the size of `make trust` without it")
    args = parser.parse_args()
    failures = 0
    for name in args.checks or CHECKS:
        run, cases = CHECKS[name]
        report = run(args.seed, args.cases or cases)
        print(report, flush=True)
        failures += len(report.failures)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
