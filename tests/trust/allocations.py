"""Every allocation refused once: an error that names the operator, and everything as before.

A child runs below a shim (`shim.c`, loaded by LD_PRELOAD) that counts what the operators and
torch's allocator ask for, and refuses the one whose number is set.
"""

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch

from dpad import ops
from dpad.ops import inputs
from tests.ops.op_helpers import DTYPES, assert_same_bits, copied
from tests.trust.draws import SIZES
from tests.trust.report import Report
from tests.trust.valid import everything

SHIM = Path(__file__).with_name("shim.c")


def shim(folder):
    """Compiles the shim; the path of the library."""
    path = Path(folder) / "shim.so"
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(path), str(SHIM), "-ldl"]
    subprocess.run(command, check=True)
    return path


CHILD = "from tests.trust import allocations; allocations.child({seed}, {cases})"


def run(seed, cases, code=CHILD):
    """Each allocation of an operator, and of `cases` generates some in turn, is refused once."""
    report = Report("allocations", {})
    folder = tempfile.TemporaryDirectory()
    preloaded = [os.environ.get("LD_PRELOAD", ""), str(shim(folder.name)), "libstdc++.so.6"]
    environment = {**os.environ, "LD_PRELOAD": " ".join(preloaded)}
    text = code.format(seed=seed, cases=cases)
    command = [sys.executable, "-W", "ignore", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    folder.cleanup()
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith("! "):
            report.fail(seed, line[2:])
    if lines and lines[-1].startswith("{"):
        report.figures.update(json.loads(lines[-1]))
    elif done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        report.fail(seed, f"ended by {name} in: {lines[-1] if lines else 'nothing'}")
    else:
        raise RuntimeError(done.stderr[-2000:])
    return report


def in_a_thread(function):
    """Runs it in a thread of its own, which has kept no memory; gives what it gives or raises."""
    found = []

    def body():
        try:
            with torch.inference_mode():
                found.append((function(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    result, error = found[0]
    if error is not None:
        raise error
    return result


def refuse_each(label, function, problem, figures, prepare=lambda: None, most=None, draw=random):
    """Refuses every allocation of `function` once (at most `most` of them, drawn)."""
    library = ctypes.CDLL(None)
    library.trust_refuse.restype = ctypes.c_long
    library.trust_refuse.argtypes = [ctypes.c_long]
    prepare()
    library.trust_refuse(-1)
    function()
    total = library.trust_refuse(0)
    numbers = range(1, total + 1)
    if most is not None and total > most:
        numbers = sorted(draw.sample(numbers, most))
    for number in numbers:
        print(f"{label}: allocation {number} of {total}", flush=True)
        figures["refused"] += 1
        error = None
        prepare()
        library.trust_refuse(number)
        try:
            function()
        except (RuntimeError, MemoryError) as found:
            error = found
        finally:
            library.trust_refuse(0)
        what = problem(error)
        if what is not None:
            print(f"! {label}: allocation {number} of {total}: {what}", flush=True)


def refuse_in_operator(name, dtype, seed, figures, operators=ops):
    """The operator is named, and its written arguments are as before."""
    given = inputs.make(name, seed, dtype, **SIZES[name](random.Random(seed)))
    expected = everything(name, twin := copied(given), getattr(ops, name)(**twin))
    state = {"args": given}

    def call():
        state["args"] = copied(given)
        return getattr(operators, name)(**state["args"])

    def problem(error):
        if error is None:
            return "no exception"
        if f"dpad::{name}" not in str(error) or "memory" not in str(error):
            return f"the message is: {type(error).__name__}: {error}"
        try:
            for argument in inputs.WRITTEN.get(name, ()):
                assert_same_bits(state["args"][argument], given[argument])
            again = call()
            assert_same_bits(everything(name, state["args"], again), expected)
        except AssertionError as difference:
            return str(difference).splitlines()[0]
        return None

    def prepare():
        state["args"] = copied(given)

    def attempt():
        in_a_thread(lambda: getattr(operators, name)(**state["args"]))

    refuse_each(name, attempt, problem, figures, prepare)


def child(seed, cases, dtypes=3, names=inputs.NAMES, operators=ops):
    """`dtypes`: how many of the three the operators are called with."""
    figures = {"operators": 0, "generates": 0, "refused": 0}
    for name in names:
        for dtype in DTYPES[:dtypes]:
            figures["operators"] += 1
            refuse_in_operator(name, dtype, seed, figures, operators)
    if cases:
        from tests.trust.subject import Subject, calls

        subject = Subject()
    for case, call in enumerate(calls(seed, cases) if cases else (), seed):
        clean = subject.generate(call)
        figures["generates"] += 1

        def problem(error, call=call, clean=clean):
            return "no exception" if error is None else subject.problem(call, clean)

        def attempt(call=call):
            return subject.generate(call)

        refuse_each(
            f"generate {case}", attempt, problem, figures, most=40, draw=random.Random(case)
        )
    print(json.dumps(figures), flush=True)
