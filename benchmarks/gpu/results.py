"""Figures of one program: written after every case, so that no failure loses the others'."""

import argparse
import gc
import json
import os
import time
import traceback
from pathlib import Path

import torch

from benchmarks.gpu.describe import describe
from benchmarks.gpu.floor import limits

INCOMPLETE = 75  # exit status: time was too short for some cases
NO_TIME = "no time left"
LOST = ("CUDA error", "device-side assert", "an illegal memory access")


class Results:
    """The cases of one JSON file.

    A case's record holds `name`, `case`, which no other one has, and its figures; or `problem`,
    where it failed or its outputs differ; or `skipped`, where it was not measured: no time or
    memory left, no such device.
    """

    def __init__(self, options, line=json.dumps):
        """`line`: what is printed of a record that was measured."""
        self.line = line
        self.path, self.device = options.json, options.device
        self.end = None if options.seconds is None else time.monotonic() + options.seconds
        self.machine = describe(options.device, small=options.small)
        self.limits = limits(self.machine)
        self.cases, self.lost = [], None
        self.before = self._measured_before() if options.resume else {}

    def left(self):
        """Seconds until the program has to end."""
        return float("inf") if self.end is None else self.end - time.monotonic()

    def _measured_before(self):
        """Case -> record of the file that is there, if it is this device's and this commit's."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        same = all(found["machine"][n] == self.machine[n] for n in ("device", "commit", "torch"))
        good = [c for c in found["cases"] if "problem" not in c and "skipped" not in c]
        return {c["case"]: c for c in good} if same else {}

    def case(self, name, function, least=5):
        """Runs a case that needs `least` seconds; its record is kept, shown and returned."""
        if name in self.before:
            self._keep(self.before[name])
        else:
            self._keep({"name": name, "case": name, **self._run(name, function, least)})
        return self.cases[-1]

    def made(self, name, function, least=25):
        """What `function` makes for several cases; None where it fails, and a record says why."""
        kept = []
        record = self._run(name, lambda: kept.append(function()) or {}, least)
        if not kept:
            self._keep({"name": name, "case": name, **record})
        return kept[0] if kept else None

    def _keep(self, record):
        self.cases.append(record)
        self.write()
        print(self._shown(record), flush=True)
        if torch.device(self.device).type == "cuda" and self.lost is None:
            gc.collect()
            torch.cuda.empty_cache()

    def _run(self, name, function, least):
        if self.lost is not None:
            return {"skipped": f"the device was lost in {self.lost}"}
        if self.left() < least:
            return {"skipped": NO_TIME}
        begun = time.monotonic()
        try:
            return {**function(), "took": round(time.monotonic() - begun, 1)}
        except (torch.OutOfMemoryError, MemoryError) as error:
            return {"skipped": f"does not fit into memory: {str(error).splitlines()[0]}"}
        except Exception as error:
            traceback.print_exc()
            text = (str(error).splitlines() or [""])[0]
            if any(words in str(error) for words in LOST):
                self.lost = name  # every later call would fail with the same words
            return {"problem": f"{type(error).__name__}: {text}"}

    def _shown(self, record):
        for kind in ("problem", "skipped"):
            if kind in record:
                return f"{record['name']}: {kind.upper()}, {record[kind]}"
        return self.line(record)

    def content(self):
        """What the file holds."""
        return {"machine": self.machine, "limits": self.limits._asdict(), "cases": self.cases}

    def write(self):
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content(), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.path)

    @property
    def status(self):
        """Exit status of the program: 1 after a problem, `INCOMPLETE` where time was too short."""
        if any("problem" in case for case in self.cases):
            return 1
        return INCOMPLETE if any(c.get("skipped") == NO_TIME for c in self.cases) else 0


def parser(program, description):
    """Options that all measuring programs have."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.gpu.{program}",
        description=description.splitlines()[0],
    )
    made.add_argument("--json", type=Path, required=True, help="file of the figures")
    made.add_argument("--device", default="cuda", help="cuda, or cpu to try the program")
    made.add_argument("--small", action="store_true", help="tiny shapes, to try the program")
    made.add_argument("--seconds", type=float, help="time after which no case is begun")
    made.add_argument("--resume", action="store_true", help="keep what the file already holds")
    made.add_argument("--repeats", type=int, default=50, help="timed turns of every function")
    return made


def parse(made, arguments):
    """The checked options."""
    options = made.parse_args(arguments)
    if options.repeats < 2:
        made.error(f"--repeats {options.repeats}: expected at least 2")
    if options.seconds is not None and options.seconds <= 0:
        made.error(f"--seconds {options.seconds:g}: expected more than 0")
    return options
