"""What lasts: memory over many calls, and many threads at once."""

import ctypes
import gc
import re
import threading
from pathlib import Path

import torch

import dpad
from dpad import ops
from dpad.decode.device import give_back
from dpad.ops import inputs
from tests.decode.common import tiny
from tests.ops.op_helpers import copied
from tests.trust.report import Report
from tests.trust.subject import Subject, calls


def anonymous():
    """Kilobytes of memory of this process that no file backs."""
    gc.collect()
    give_back(torch.device("cpu"))  # what is kept of freed memory would hide what is lost
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)[1])


def _grown(report, seed, cases, limit, body):
    """Runs `body` a fifth of `cases` times to warm up, then `cases` times; growth in kB."""
    for case in range(seed, seed + max(1, cases // 5)):
        body(case)
    before = anonymous()
    for case in range(seed, seed + cases):
        body(case)
    growth = anonymous() - before
    report.add("kB of growth", growth)
    if growth > limit:
        report.fail(seed, f"{growth} kB of growth, allowed {limit}")
    return report


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``; `uordblks`: bytes that are allocated now."""

    _fields_ = [(f"field_{n}", ctypes.c_size_t) for n in range(7)]
    _fields_ += [("uordblks", ctypes.c_size_t), ("field_8", ctypes.c_size_t * 2)]


def allocated():
    """Bytes that this process has from malloc."""
    gc.collect()
    told = ctypes.CDLL(None).mallinfo2
    told.restype = _Mallinfo
    return told().uordblks


def run_leaks(seed, cases, operators=ops, limit=16):
    """Every operator `cases` times: what stays behind a call is less than the least allocation."""
    report = Report("leaks", {"operators": len(inputs.NAMES), "calls": 0})
    gc.freeze()  # what is there already is not looked through at every `allocated`
    try:
        for name in inputs.NAMES:
            left = _left_behind(name, getattr(operators, name), cases)
            report.add("calls", cases)
            if left > limit:
                report.fail(seed, f"{name}: {left:.0f} bytes stay behind every call")
    finally:
        gc.unfreeze()
    return report


def _left_behind(name, operator, cases):
    """Bytes that stay allocated, by call of an operator."""
    arguments = inputs.make(name)

    def call():
        with torch.inference_mode():
            operator(**copied(arguments))

    for _ in range(50):
        call()
    before = allocated()
    for _ in range(cases):
        call()
    return (allocated() - before) / cases


def run_patches(seed, cases, limit=1024, patch=dpad.patch):
    """patch, generate, remove, over and over: less than a megabyte, and the model as it was."""
    report = Report("patches", {"cycles": cases})
    model, call = tiny(), calls(seed, 1)[0]
    held = {k: v.clone() for k, v in model.state_dict().items()}
    entries = dict(vars(model))
    report = _grown(report, seed, cases, limit, lambda _: _cycle(model, call, patch))
    if vars(model).keys() != entries.keys():
        report.fail(seed, f"entries left behind: {vars(model).keys() ^ entries.keys()}")
    if not all(torch.equal(v, model.state_dict()[k]) for k, v in held.items()):
        report.fail(seed, "the weights changed")
    return report


def _cycle(model, call, patch):
    handle = patch(model)
    model.generate(**call)
    handle.remove()


def run_generates(seed, cases, limit=1024, make=Subject):
    """Random generates on one patched model."""
    subject, every = make(), calls(seed, min(cases, 100))
    report = Report("generates", {"generates": cases})
    return _grown(report, seed, cases, limit, lambda n: subject.generate(every[n % len(every)]))


def run_threads(seed, cases, threads=8, make=Subject):
    """`threads` threads at once, `cases` generates each on one patched model: the same tokens."""
    report = Report("threads", {"threads": threads, "generates": 0})
    subject, every = make(), calls(seed, cases)
    clean = [subject.generate(call) for call in every]
    start = threading.Barrier(threads)

    def body(number):
        start.wait()
        for turn in range(cases):
            case = (turn + number) % cases
            try:
                same = torch.equal(subject.generate(every[case]), clean[case])
                problem = None if same else "other tokens than alone"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            report.add("generates")
            if problem is not None:
                report.fail(seed + case, problem)

    pool = [threading.Thread(target=body, args=(number,)) for number in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return report
