"""Valid calls: every operator against its twin, in guarded memory, on every instruction set."""

import itertools

import torch

from dpad import ops
from dpad.doctor_cases import TOLERANCE
from dpad.ops import inputs, reference
from tests.ops.op_helpers import assert_same_bits, copied
from tests.trust.draws import call, instruction_sets, placed, poisoned, setting
from tests.trust.report import Report


def tensors(result):
    if result is None:
        return ()
    return result if isinstance(result, tuple) else (result,)


def everything(name, arguments, result):
    """What a call gave and what it wrote."""
    return (*tensors(result), *(arguments[a] for a in inputs.WRITTEN.get(name, ())))


def tolerance(name, dtype, arguments):
    if name not in inputs.ROUNDED:
        return 0.0
    wide = name == "route" or (name == "confidence" and not arguments["round_to_dtype"])
    return TOLERANCE[torch.float32 if wide else dtype]


def compare(found, expected, share):
    """None, or how two lists of tensors differ."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"result {i} is {a.dtype} {list(a.shape)}, not {b.dtype} {list(b.shape)}"
        if a.numel() == 0:
            continue
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return f"result {i}: {int((a != b).sum())} of {a.numel()} integers differ"
            continue
        if not torch.equal(a.isnan(), b.isnan()):
            return f"result {i} has {int(a.isnan().sum())} NaN, not {int(b.isnan().sum())}"
        wide, want = a.double().nan_to_num(), b.double().nan_to_num()
        error, allowed = (wide - want).abs().max(), share * max(1.0, want.abs().max().item())
        if error > allowed:
            return f"result {i} is off by {error:.1e}, allowed {allowed:.1e}"
    return None


def examine(seed, operators, settings, report):
    name, dtype, arguments = call(seed)
    twin = copied(arguments)
    expected = everything(name, twin, getattr(reference, name)(**twin))
    share, first = tolerance(name, dtype, arguments), {}
    for isa, threads in settings:
        args, guards = placed(name, copied(arguments), seed)
        with setting(isa, threads), poisoned():
            found = everything(name, args, getattr(operators, name)(**args))
        report.add("calls")
        where = f"{name} {str(dtype)[6:]} on {isa}, {threads} threads"
        problem = compare(found, expected, share)
        try:
            guards.check()
            assert_same_bits(found, first.setdefault(isa, found))
        except AssertionError as error:
            problem = problem or str(error).splitlines()[0]
        if problem is not None:
            return report.fail(seed, f"{where}: {problem}")
    return None


def run(seed, cases, operators=ops):
    """`cases` random calls, each on every instruction set and with 1 and 2 threads."""
    report = Report("valid", {"cases": cases, "calls": 0})
    settings = list(itertools.product(instruction_sets(), (1, 2)))
    for case in range(seed, seed + cases):
        examine(case, operators, settings, report)
    return report


def run_repeats(seed, cases, operators=ops, times=250):
    """The same call again and again: the same bits, with 1 and 2 threads."""
    report = Report("repeats", {"cases": cases, "calls": 0})
    for case in range(seed, seed + cases):
        name, dtype, arguments = call(case)
        first = None
        for isa, threads in itertools.product((ops.cpu_isa(),), (1, 2)):
            with setting(isa, threads):
                for _ in range(times):
                    args = copied(arguments)
                    found = everything(name, args, getattr(operators, name)(**args))
                    report.add("calls")
                    first = found if first is None else first
                    try:
                        assert_same_bits(found, first)
                    except AssertionError:
                        report.fail(case, f"{name} {str(dtype)[6:]}, {threads} threads: other bits")
                        break
    return report
