"""The steps of the program and how one is run: in a process of its own, within its time."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND_LIMIT, TOTAL_LIMIT = 600, 1500  # seconds of one part, and of all
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
TAIL = 4000  # characters of a step's output that its record keeps


@dataclass(frozen=True)
class Step:
    """One command; `{python}`, `{out}` and `{arch}` in it are replaced."""

    name: str
    part: int
    limit: int  # seconds
    command: tuple
    environment: tuple = ()  # (name, value)
    needs: tuple = ()  # steps that must not have failed


def _sanitizer(tool):
    command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "{python}", "-m")
    # Without torch's cache every tensor is an allocation that the tool can watch.
    environment = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    return Step(tool, 2, 75, (*command, "benchmarks.gpu.shapes"), environment, ("build",))


PYTEST = ("{python}", "-m", "pytest", "-q", "-p", "no:cacheprovider")
ON_GPU = (("DPAD_DEVICES", "cuda"), ("DPAD_CASES", "20"))
STEPS = (
    Step("machine", 1, 20, ("{python}", "-m", "benchmarks.gpu.describe", "{out}/machine.json")),
    Step(
        "build",
        1,
        240,
        ("{python}", "setup.py", "--quiet", "build_ext", "--inplace"),
        (("DPAD_CUDA_ARCHITECTURES", "{arch}"),),
    ),
    Step("operators", 1, 260, (*PYTEST, "tests/ops", "tests/artefacts"), ON_GPU, ("build",)),
    Step("generation", 2, 150, (*PYTEST, "tests/generation", "tests/decode"), (), ("build",)),
    *(_sanitizer(tool) for tool in SANITIZERS),
    Step(
        "operator_times",
        3,
        240,
        ("{python}", "-m", "benchmarks.gpu.ops", "--json", "{out}/operators.json"),
        (),
        ("build",),
    ),
    Step(
        "step_times",
        3,
        240,
        ("{python}", "-m", "benchmarks.gpu.step", "--json", "{out}/step.json"),
        (),
        ("build",),
    ),
    Step("plots", 3, 40, ("{python}", "-m", "benchmarks.gpu.plots", "{out}")),
)
NAMES = tuple(s.name for s in STEPS)
PARTS = tuple(sorted({s.part for s in STEPS}))


class Report:
    """What the steps came to: `report.json` in the folder, written again after every step."""

    def __init__(self, folder):
        self.path = Path(folder) / "report.json"
        self.steps = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, name, record):
        self.steps[name] = record
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.steps, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.path)

    def failed(self, name):
        return name in self.steps and self.steps[name]["status"] != "passed"


def run(step, out, arch, report):
    """Runs one step and records it; returns its status.

    Statuses: "passed", "failed", "timed out", or "skipped" where a step that it needs has failed
    or its program is not installed.
    """
    missing = [name for name in step.needs if report.failed(name)]
    if missing:
        record = {"status": "skipped", "reason": f"{missing[0]} has not passed"}
        report.add(step.name, record)
        return record["status"]
    fill = {"python": sys.executable, "out": str(out), "arch": arch}
    command = [part.format(**fill) for part in step.command]
    environment = {name: value.format(**fill) for name, value in step.environment}
    begun = time.monotonic()
    status, code, output = _run(command, {**os.environ, **environment}, step.limit)
    record = {
        "status": status,
        "seconds": round(time.monotonic() - begun, 1),
        "limit": step.limit,
        "exit": code,
        "command": " ".join([f"{n}={v}" for n, v in environment.items()] + list(step.command)),
        "output": output[-TAIL:],
    }
    report.add(step.name, record)
    with open(Path(out) / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"=== {step.name}: {status}\n{output}\n")
    return status


def _run(command, environment, limit):
    """Status, exit code and output; the process and all it started end at the limit."""
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return "skipped", None, f"{command[0]}: {error.strerror}"
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return "timed out", None, output
    return "passed" if process.returncode == 0 else "failed", process.returncode, output
