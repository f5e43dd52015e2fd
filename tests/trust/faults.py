"""Whatever fails in the middle of a call: the right exception, and everything as before.

Operators that raise and interrupts at random moments; allocations are in `allocations.py`.
"""

import random
import signal
import time

from dpad.ops import _dispatch
from tests.trust.report import Report
from tests.trust.subject import EngineSubject, Subject, calls


class Injected(Exception):
    """What the failing operator raises."""


class Failing:
    """Stands before the operators: the `number`th call of them raises."""

    def __init__(self, number=0):
        self.number, self.seen, self.plain = number, 0, _dispatch.run

    def __call__(self, *arguments):
        self.seen += 1
        if self.seen == self.number:
            raise Injected(arguments[0])
        return self.plain(*arguments)

    def __enter__(self):
        _dispatch.run = self
        return self

    def __exit__(self, *_):
        _dispatch.run = self.plain


def run_operators(seed, cases, make=Subject):
    """In each of `cases` generates some operator call fails, up to forty of them in turn."""
    report = Report("operators", {"generates": 0, "faults": 0})
    subject = make()
    for case, call in enumerate(calls(seed, cases), seed):
        clean = subject.generate(call)
        with Failing() as counter:
            subject.generate(call)
        report.add("generates")
        step = max(1, counter.seen // 40)
        for number in range(1 + random.Random(case).randrange(step), counter.seen + 1, step):
            report.add("faults")
            try:
                with Failing(number):
                    subject.generate(call)
                problem = "no exception"
            except Injected:
                problem = subject.problem(call, clean)
            except Exception as error:
                problem = f"another exception: {type(error).__name__}: {error}"
            if problem is not None:
                report.fail(case, f"call {number} of {counter.seen}: {problem}")
                break
    return report


def run_engine(seed, cases):
    """The same within an engine: every request ends, and another engine gives the same tokens."""
    report = run_operators(seed, cases, EngineSubject)
    report.check = "engine"
    return report


def run_interrupts(seed, cases, make=Subject):
    """KeyboardInterrupt at a random moment of each of `cases` generates."""
    report = Report("interrupts", {"generates": cases, "interrupted": 0})
    subject = make()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for case, call in enumerate(calls(seed, cases), seed):
            begun = time.perf_counter()
            clean = subject.generate(call)
            seconds = time.perf_counter() - begun
            try:
                signal.setitimer(signal.ITIMER_REAL, random.Random(case).uniform(1e-5, seconds))
                subject.generate(call)
            except KeyboardInterrupt:
                report.add("interrupted")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            problem = subject.problem(call, clean)
            if problem is not None:
                report.fail(case, problem)
    finally:
        signal.signal(signal.SIGALRM, before)
    return report
