"""A small draw of every check; `make trust` runs them at their full size (docs/reliability.md)."""

import pytest

from tests.trust import allocations, faults, hostile, lasting, malformed, valid

DRAWS = {
    "valid": lambda: valid.run(0, 120),
    "repeats": lambda: valid.run_repeats(0, 20, times=20),
    "malformed": lambda: malformed.run(0, 400),
    "operators": lambda: faults.run_operators(0, 1),
    "engine": lambda: faults.run_engine(1, 1),
    "allocations": lambda: allocations.run(0, 0, allocations.CHILD[:-1] + ", 1)"),
    "interrupts": lambda: faults.run_interrupts(0, 6),
    "leaks": lambda: lasting.run_leaks(0, 500),
    "patches": lambda: lasting.run_patches(0, 6),
    "generates": lambda: lasting.run_generates(0, 12),
    "threads": lambda: lasting.run_threads(0, 2, threads=4),
    "arguments": lambda: hostile.run_arguments(0, 60),
    "folders": lambda: hostile.run_folders(0, 10),
}


@pytest.mark.parametrize("check", DRAWS)
def test_a_small_draw(check):
    report = DRAWS[check]()
    print(report)
    assert not report.failures, str(report)
