"""The steps of the program and how one is run: in a process of its own, within its time."""

import importlib.util
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
MARGIN = 20  # seconds of a step's limit for starting and for the case that is under way
WORKERS = 8  # test processes, where pytest-xdist is installed and there are as many cores
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
INCOMPLETE = 75  # exit status where time was too short for some cases, see `results`
TAIL = 4000  # characters of a step's output that its record keeps


@dataclass(frozen=True)
class Step:
    """One command; `{python}`, `{out}`, `{arch}` and `{seconds}`, the time it may take, in it are
    replaced, an element `{small}` by the options for trying the program on the CPU, or by nothing.
    """

    name: str
    part: int
    limit: int  # seconds
    command: tuple
    environment: tuple = ()  # (name, value)
    needs: tuple = ()  # steps that must not have failed
    least: int = 10  # seconds: with less left it is not begun
    again: bool = False  # run in every command that has it, also if it has passed

    @property
    def tries_small(self):
        """Whether it can be tried without a GPU."""
        return "{small}" in self.command

    def filled(self, limit, out, arch, small):
        """The command for a run of at most `limit` seconds."""
        fill = {"python": sys.executable, "out": str(out), "arch": arch}
        fill["seconds"] = max(1, limit - MARGIN)
        options = ["--device", "cpu", "--small", "--repeats", "2"] if small else []
        if "benchmarks.gpu.describe" in self.command:
            options = options[2:3]
        command = []
        for part in self.command:
            command += options if part == "{small}" else [part.format(**fill)]
        return command, {name: value.format(**fill) for name, value in self.environment}


def _tests(name, part, limit, *chosen, environment=()):
    command = ("{python}", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    cores = len(os.sched_getaffinity(0))
    if importlib.util.find_spec("xdist") is not None and cores >= WORKERS:
        command += ("-n", str(WORKERS))
    return Step(name, part, limit, (*command, *chosen), environment, ("build",), 30)


def _sanitizer(tool, part, limit):
    command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "{python}", "-m")
    # Without torch's cache every tensor is an allocation that the tool can watch.
    environment = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    return Step(tool, part, limit, (*command, "benchmarks.gpu.shapes"), environment, ("build",), 25)


def _figures(name, part, limit, module, file, *options):
    command = ("{python}", "-m", f"benchmarks.gpu.{module}", "--json", "{out}/" + file, *options)
    return Step(
        name,
        part,
        limit,
        (*command, "--resume", "--seconds", "{seconds}", "{small}"),
        (),
        ("build",),
        40,
    )


ON_GPU = (("DPAD_DEVICES", "cuda"), ("DPAD_CASES", "20"))
MACHINE = ("{python}", "-m", "benchmarks.gpu.describe", "{out}/machine.json", "{small}")
BUILD = ("{python}", "setup.py", "--quiet", "build_ext", "--inplace")
# In order of what they tell: with too little time the last ones are left out.
STEPS = (
    Step("machine", 1, 25, MACHINE),
    Step("build", 1, 180, BUILD, (("DPAD_CUDA_ARCHITECTURES", "{arch}"),), (), 60, again=True),
    _tests("operators", 1, 130, "tests/ops", environment=ON_GPU),
    _sanitizer("memcheck", 1, 70),
    _figures("operator_times", 1, 100, "ops", "operators.json"),
    _figures("step_times", 2, 140, "step", "step.json", "--repeats", "20"),
    _figures("generate_times", 2, 120, "generate", "generate.json"),
    _figures("measurements", 2, 170, "measurements", "measurements.json", "--repeats", "30"),
    _figures(
        "throughput", 2, 60, "generate", "throughput.json", "--throughput", "--models", "LLaDA-8B"
    ),
    _tests("decoding", 2, 60, "tests/generation", "tests/decode", "-k", "cuda"),
    _sanitizer("racecheck", 3, 70),
    _sanitizer("initcheck", 3, 60),
    _sanitizer("synccheck", 3, 60),
    _tests("generation", 3, 110, "tests/generation", "tests/decode"),
    _tests("artefacts", 3, 40, "tests/artefacts"),
)
# What is made of the results that are there, at the end of every command.
LAST = (
    Step("summary", 0, 10, ("{python}", "-m", "benchmarks.gpu.summary", "{out}")),
    Step("plots", 0, 20, ("{python}", "-m", "benchmarks.gpu.plots", "{out}")),
)
NAMES = tuple(s.name for s in STEPS)
PARTS = tuple(sorted({s.part for s in STEPS}))
RESERVE = sum(s.limit for s in LAST)


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

    def done(self, step):
        """Whether a command that goes on where the last one stopped leaves it out."""
        return not step.again and self.steps.get(step.name, {}).get("status") in (
            "passed",
            "failed",
            "timed out",
        )


def run(step, out, arch, report, left=None, small=False):
    """Runs one step, in `left` seconds if that is less than its limit, and records it; returns its
    status.

    Statuses: "passed", "failed", "timed out", "incomplete" where it ended in time without some of
    its cases, or "skipped" where a step that it needs has failed, its program is not installed or
    too little time is left.
    """
    limit = step.limit if left is None else int(min(step.limit, left))
    missing = [name for name in step.needs if report.failed(name)]
    if missing or limit < min(step.least, step.limit):
        reason = f"{missing[0]} has not passed" if missing else f"{max(0, limit)} s are too little"
        report.add(step.name, {"status": "skipped", "reason": reason})
        return "skipped"
    command, environment = step.filled(limit, out, arch, small)
    begun = time.monotonic()
    status, code, output = _run(command, {**os.environ, **environment}, limit)
    record = {
        "status": status,
        "seconds": round(time.monotonic() - begun, 1),
        "limit": limit,
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
    status = {0: "passed", INCOMPLETE: "incomplete"}.get(process.returncode, "failed")
    return status, process.returncode, output
