"""The stages of one visit to a machine with a GPU, what tells most first, each a process.

    python -m pytest benchmarks/gpu/stages.py --figures results/stages.json --seconds 560

A stage is a measurement like the others (`conftest.py`): recorded when it ends, not repeated once
it has passed, and not begun without time. It ends at its limit with all that it has started. The
outputs are in log.txt beside the file.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks import machine
from benchmarks.gpu.figures import INCOMPLETE, NO_TIME

ROOT = Path(__file__).resolve().parents[2]
MARGIN = 20  # seconds of a limit for starting and for the measurement that is under way
WORKERS = 8  # test processes, where pytest-xdist is installed and there are as many cores


class Stage(NamedTuple):
    """A command of at most `limit` seconds; words in braces are replaced, empty ones left out."""

    limit: int
    command: str
    environment: dict = {}  # noqa: RUF012
    least: int = 30  # seconds: with less left it is not begun


BUILD = "setup.py --quiet build_ext --inplace"
PYTEST = "{python} -m pytest -p no:cacheprovider "
TESTS = PYTEST + "{workers} tests/"
FIGURES = PYTEST + "-vv --tb=short {small} --figures {out}/figures.json --seconds {seconds} "
FIGURES += "--patience 60 benchmarks/gpu/"
SHAPES = " --error-exitcode 9 {python} -m benchmarks.gpu.shapes"
ON_CUDA = {"DPAD_DEVICES": "cuda", "DPAD_CASES": "20"}
# Without torch's cache every tensor is an allocation that a tool can watch.
WATCHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
STAGES = {
    "operators": Stage(130, TESTS + "ops", ON_CUDA),
    "memcheck": Stage(70, "compute-sanitizer --tool memcheck" + SHAPES, WATCHED),
    "step_times": Stage(200, FIGURES + "test_step.py"),
    "operator_times": Stage(150, FIGURES + "test_operators.py"),
    "generate_times": Stage(120, FIGURES + "test_generate.py -k not(throughput)"),
    "gaps": Stage(60, FIGURES + "test_gaps.py"),
    "products": Stage(100, FIGURES + "test_products.py"),
    "throughput": Stage(90, FIGURES + "test_generate.py -k throughput"),
    "decoding": Stage(60, TESTS + "generation tests/decode -k cuda"),
    "racecheck": Stage(70, "compute-sanitizer --tool racecheck" + SHAPES, WATCHED),
    "initcheck": Stage(60, "compute-sanitizer --tool initcheck" + SHAPES, WATCHED),
    "synccheck": Stage(60, "compute-sanitizer --tool synccheck" + SHAPES, WATCHED),
    "generation": Stage(110, TESTS + "generation tests/decode"),
    "artefacts": Stage(40, TESTS + "artefacts"),
}


def run(command, environment, limit, log):
    """(exit status, or None where it was stopped at its limit; the end of its output)."""
    with open(log, "ab") as output:
        begun = output.tell()
        out = {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, **out)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
    return status, log.read_bytes()[begun:].decode(errors="replace")[-4000:]


def build(log, limit):
    """Exit status of the build for the device that is there; it is looked after in every visit."""
    command = [sys.executable, *BUILD.split()]
    environment = {"DPAD_CUDA_ARCHITECTURES": machine.cuda("cuda")["architecture"]}
    return run(command, environment, limit, log)[0]


def words(stage, limit, figures):
    """The command of a stage that has so many seconds."""
    many = importlib.util.find_spec("xdist") is not None and len(os.sched_getaffinity(0)) >= WORKERS
    given = {"python": sys.executable, "out": figures.path.parent, "seconds": limit - MARGIN}
    given |= {"workers": f"-n{WORKERS}" * many, "small": "--small" * figures.small}
    return [word for word in (w.format(**given) for w in stage.command.split()) if word]


def perform(stage, figures):
    """Runs a stage in the time that is left; skips or fails where it does not pass.

    A command that was killed is called again: the measurement that it died of comes last then.
    """
    end = time.monotonic() + min(stage.limit, figures.left())
    for _ in range(3):
        limit = round(end - time.monotonic())
        if limit < stage.least:
            figures.late = True
            pytest.skip(f"{limit} s are too little")
        command = words(stage, limit, figures)
        try:
            status, text = run(command, stage.environment, limit, figures.path.with_name("log.txt"))
        except OSError as error:
            pytest.skip(f"{command[0]}: {error.strerror}")
        if status is None or status >= 0:
            break
    if status == INCOMPLETE:
        figures.late = True
        pytest.skip(NO_TIME)
    if status != 0:
        ended = f"stopped after {limit} s" if status is None else f"exit status {status}"
        pytest.fail(f"{ended}\n{text}", pytrace=False)


SMALL = [name for name, stage in STAGES.items() if "{small}" in stage.command]


@pytest.mark.measured("{stage}", "stage", list(STAGES), SMALL)
def test_stage(figures, stage):
    perform(STAGES[stage], figures)
