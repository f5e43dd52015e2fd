"""The checks find what they are for: every one of them with a bug planted in what it looks at."""

import ctypes
import itertools
import threading
import time

import pytest
import torch

import dpad
from dpad import ops
from tests.trust import allocations, children, draws, faults, hostile, lasting, malformed, valid
from tests.trust.report import Report
from tests.trust.subject import Subject


class Planted:
    """The operators, one of them replaced: `bug(plain, *args, **kwargs)`."""

    def __init__(self, name, bug, plain=ops):
        self.name, self.bug, self.plain = name, bug, plain

    def __getattr__(self, name):
        operator = getattr(self.plain, name)
        if name != self.name:
            return operator
        return lambda *args, **kwargs: self.bug(operator, *args, **kwargs)


def off_by_little(plain, **args):
    """One value off by a little, as of a wrong rounding in float32."""
    result = plain(**args)
    if result.numel():
        result.view(-1)[-1] += 0.05
    return result


def one_behind(plain, residual, **args):
    """Writes the element behind its argument."""
    result = plain(residual=residual, **args)
    if residual.numel():
        end = residual.storage_offset() + (residual.shape[0] - 1) * residual.stride(0)
        residual.as_strided((1,), (1,), end + residual.shape[1]).zero_()
    return result


def one_more_key(plain, n_keys, k_cache, **args):
    """Reads the slot behind the last one that may be read."""
    return plain(n_keys=(n_keys + 1).clamp(max=k_cache.shape[2]), k_cache=k_cache, **args)


def unwritten(plain, **args):
    """Leaves its result as it was allocated."""
    return torch.empty_like(plain(**args))


def by_threads(plain, **args):
    """Other bits on two threads."""
    return plain(**args) * (1 + (torch.get_num_threads() - 1) * 1e-7)


VALID = {
    "off_by_little": ("swiglu", off_by_little),
    "one_behind": ("add_rms_norm_", one_behind),
    "one_more_key": ("block_attention", one_more_key),
    "unwritten": ("linear", unwritten),
    "by_threads": ("linear", by_threads),
}


def seeds(name, count):
    """The first seeds whose call is of this operator."""
    found = (seed for seed in range(10_000) if draws.call(seed)[0] == name)
    return list(itertools.islice(found, count))


@pytest.mark.parametrize("bug", VALID)
def test_valid(bug):
    planted = Planted(*VALID[bug])
    every = seeds(planted.name, 8)
    assert not any(valid.run(seed, 1).failures for seed in every)
    assert any(valid.run(seed, 1, planted).failures for seed in every)


def test_repeats():
    drift = [0]

    def other_bits(plain, **args):
        drift[0] += 1
        return plain(**args) + drift[0] % 7 * 1e-7

    planted = Planted("swiglu", other_bits)
    assert any(valid.run_repeats(s, 1, planted, times=8).failures for s in seeds("swiglu", 8))


def accepts(plain, *args):
    return None


def says_little(plain, *args):
    raise RuntimeError("bad argument")


def says_no_value(plain, *args):
    raise RuntimeError(
        "dpad::add_rms_norm_: argument 'residual', argument 'delta', 'weight', 'eps'"
    )


def writes_first(plain, residual, *args):
    if isinstance(residual, torch.Tensor) and residual.is_cpu:
        residual.zero_()
    return plain(residual, *args)


@pytest.mark.parametrize("bug", [accepts, says_little, says_no_value, writes_first])
def test_malformed(bug):
    planted = Planted("add_rms_norm_", bug, torch.ops.dpad)
    every = (malformed.Wrong(seed) for seed in range(10_000))
    every = (wrong for wrong in every if wrong.name == "add_rms_norm_")
    every = list(itertools.islice(every, 20))
    assert not any(malformed.verdict(wrong) for wrong in every)
    assert any(malformed.verdict(wrong, planted) for wrong in every)


CHILD = """
import os, signal, sys
from tests.trust import children
children.SECONDS = 1
def verdict(case):
    if case == 3: os.kill(os.getpid(), signal.SIGSEGV)
    while case == 5: pass
    return "accepted" if case == 7 else "says nothing" if case == 8 else None
children.serve({seed}, {cases}, int, verdict)
"""


def test_children():
    """A signal, a hang, an accepted call and a poor message are counted, each with its number."""
    report = children.run(Report("children"), 0, 10, CHILD)
    figures = {"calls": 10, "signals": 1, "hangs": 1, "accepted": 1, "unclear": 1}
    assert report.figures == figures
    assert [seed for seed, _ in report.failures] == [3, 5, 7, 8]


class Spoiled(Subject):
    """A failed call leaves another weight behind."""

    def generate(self, call):
        try:
            return super().generate(call)
        except BaseException:
            with torch.no_grad():
                next(self.model.parameters()).view(-1)[0] += 1
            raise


class Swallowed(Subject):
    """A failed operator is not told."""

    def generate(self, call):
        try:
            return super().generate(call)
        except Exception:
            return torch.zeros(1)


class Wrapped(Subject):
    """Another exception than the one that was raised."""

    def generate(self, call):
        try:
            return super().generate(call)
        except Exception as error:
            raise ValueError("something went wrong") from error


@pytest.mark.parametrize("subject", [Spoiled, Swallowed, Wrapped])
def test_operators(subject):
    assert faults.run_operators(0, 1, subject).failures


def test_interrupts():
    assert faults.run_interrupts(0, 3, Spoiled).failures


def test_allocations():
    """An operator that does not name itself, in a process whose allocations are refused."""
    code = "from tests.trust.test_planted import unnamed; unnamed({seed}, {cases})"
    report = allocations.run(0, 0, code)
    assert report.figures["refused"] and "the message is" in report.failures[0][1]


def unnamed(seed, cases):
    def bug(plain, **args):
        try:
            return plain(**args)
        except RuntimeError:
            raise RuntimeError("no memory") from None

    allocations.child(seed, cases, 1, names=("swiglu",), operators=Planted("swiglu", bug))


def test_leaks():
    """The least that malloc gives, once in a call."""

    def bug(plain, **args):
        ctypes.CDLL(None).malloc(1)
        return plain(**args)

    report = lasting.run_leaks(0, 500, Planted("swiglu", bug))
    assert [text.split(":")[0] for _, text in report.failures] == ["swiglu"]


def test_patches():
    held = []

    def leaking(model):
        held.append(bytearray(b"x" * 4_000_000))
        return dpad.patch(model)

    assert lasting.run_patches(0, 4, patch=leaking).failures


class Leaking(Subject):
    """Keeps something of every call."""

    def __init__(self):
        super().__init__()
        self.held = []

    def generate(self, call):
        self.held.append(bytearray(b"x" * 4_000_000))
        return super().generate(call)


def test_generates():
    assert lasting.run_generates(0, 5, make=Leaking).failures


class Shared(Subject):
    """What one thread asks for comes out of another one."""

    last = None

    def generate(self, call):
        self.last = call
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.01)
        return super().generate(self.last)


def test_threads():
    assert lasting.run_threads(0, 3, threads=4, make=Shared).failures


class Anything:
    """Takes all arguments, or refuses them without a word."""

    def __init__(self, error=None):
        self.error = error

    def generate(self, call):
        if self.error is not None:
            raise self.error


def test_arguments_and_folders():
    argument, folder = hostile.Argument(0), hostile.Folder(0)
    assert hostile.argument_verdict(argument, Anything()) == "accepted"
    assert "no" in hostile.argument_verdict(argument, Anything(ValueError("no")))
    assert hostile.folder_verdict(folder, lambda path: None) == "accepted"

    def stumbles(path):
        raise AttributeError("'list' object has no attribute 'get'")

    assert "AttributeError" in hostile.folder_verdict(hostile.Folder(0), stumbles)
