"""The file of all figures: written again after every measurement, so that no failure loses others.

A record holds `case`, the measurement's name, `kind`, its function's, its sizes and its figures; or
it says why there are none: `problem`, where the function failed or its outputs differ, or
`skipped`: no time or memory left, no such device.
"""

import gc
import json
import sys
import time

import pytest
import torch

from benchmarks import machine
from benchmarks.cases import in_a_line
from benchmarks.gpu import floor
from benchmarks.store import write_json

INCOMPLETE = 75  # exit status: time was too short for some measurements
NO_TIME, BEFORE = "no time left", "measured before"
STOPPED = "it was under way when the process ended"
LOST = ("CUDA error", "device-side assert", "an illegal memory access")
SAME = ("device", "torch", "commit", "small")  # figures of others are not continued


def failed(record):
    """Why a record does not count, or None."""
    return record.get("problem", record.get("skipped"))


class Figures:
    """The records of one file, by name."""

    def __init__(self, path, small=False, seconds=float("inf")):
        self.path, self.small = path.resolve(), small
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.end = time.monotonic() + seconds
        self.lost, self.late, self.records = None, False, {}
        self.machine = {**machine.describe(), **machine.cuda(self.device), "small": small}
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if found and all(found["machine"].get(n) == self.machine[n] for n in SAME):
            self.machine = found["machine"]
            self.records = {record["case"]: record for record in found["cases"]}
        else:
            copied = floor.copy_bandwidth(self.device, 1 << (20 if small else 30))
            self.machine["copy_bytes_per_second"] = copied
        about = self.machine
        self.limits = floor.limits(about["device"], about["copy_bytes_per_second"])

    def left(self):
        """Seconds in which measurements may be begun."""
        return self.end - time.monotonic()

    def refused(self, case, least):
        """Why a measurement of at least so many seconds is not begun, or None."""
        if failed(self.records.get(case, {"skipped": "never"})) is None:
            return BEFORE
        if self.lost is not None:
            return f"the device was lost in {self.lost}"
        late = self.left() < least
        self.late = self.late or late
        return NO_TIME if late else None

    def put(self, record):
        """Writes a record, and with it the whole file or nothing."""
        self.records[record["case"]] = record
        about = {"machine": self.machine, "limits": self.limits._asdict()}
        write_json(self.path, {**about, "cases": list(self.records.values())})

    def reason(self, case, error):
        """What a record says of an exception."""
        if isinstance(error, pytest.skip.Exception):
            return {"skipped": error.msg}
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return {"skipped": f"does not fit into memory: {in_a_line(error)}"}
        if any(words in str(error) for words in LOST):
            self.lost = case  # every later call would fail with the same words
        return {"problem": in_a_line(error)}

    def release(self):
        """Gives the memory of what was measured back."""
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)  # pytest's, of the last failure, with all that it held
        gc.collect()
        if self.device == "cuda" and self.lost is None:
            torch.cuda.empty_cache()
