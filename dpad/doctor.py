"""What is installed, what runs where, and whether every operator agrees with its twin.

`report` is what ``dpad doctor`` shows; it prints nothing itself.
"""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dpad
from dpad import memory, ops, threads
from dpad.doctor_cases import Case, cases
from dpad.ops import reference

REPORT_VERSION = 1
_ISAS = ("portable", "avx2", "avx512")


def report(
    model: str | None = None, canvas: int = memory.CANVAS, dtype: str = "auto"
) -> dict[str, Any]:
    """The whole examination as a dict of plain values, in a few seconds.

    `model`: a repository, a folder or "demo", for which the memory of a decoding of `canvas`
    positions in `dtype` is counted; it is not loaded.

    Keys: ``version`` of the report, ``ok`` (False when an operator disagrees with its twin),
    ``versions``, ``modules`` (compiled module -> "loaded" or why not), ``build``, ``cpu``,
    ``threads`` (seconds of a small operation by one thread and by torch's team of them), ``cuda``,
    ``operators`` (per operator, device and dtype: where it runs, largest error, tolerance, ok; ok
    is None where the twin itself runs), ``memory`` (`memory.check`, None without Transformers),
    ``model`` (`memory.of_checkpoint` or None), ``warnings``, ``seconds``.

    Raises:
        ValueError, OSError: of `model`, `canvas` and `dtype`, as `memory.of_checkpoint`.
    """
    begun = time.perf_counter()
    wanted = None if model is None else memory.of_checkpoint(model, canvas, dtype)
    modules, build, isa = _modules()
    operators = [row for device in devices() for row in check_operators(device)]
    teams = threads.compare()
    held = memory.check() if _version("transformers") else None
    return {
        "version": REPORT_VERSION,
        "ok": all(row["ok"] is not False for row in operators),
        "versions": versions(),
        "modules": modules,
        "build": build,
        "cpu": cpu(isa),
        "threads": teams,
        "cuda": cuda(),
        "operators": operators,
        "memory": held,
        "model": wanted,
        "warnings": warnings(modules, isa, teams, held),
        "seconds": time.perf_counter() - begun,
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Name -> version, None where it is not installed."""
    found: dict[str, str | None] = {
        "dpad": dpad.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none: torch is built for the CPU only",
    }
    for name in ("transformers", "tokenizers", "safetensors", "matplotlib"):
        found[name] = _version(name)
    return {**found, "platform": platform.platform(), "location": str(Path(dpad.__file__).parent)}


def _modules() -> tuple[dict[str, str], str | None, str | None]:
    """(module -> state, build line, error text of a DPAD_ISA that cannot be followed)."""
    try:
        info, problem = ops.build_info(), None
    except RuntimeError as error:  # DPAD_ISA names a set that is unknown or not supported
        info = {n: "loaded" for n in ("_C", "_C_cuda", "_host") if ops.loaded(n)}
        problem = str(error)
    modules = {name: info.get(name, "not loaded") for name in ("_C", "_C_cuda", "_host")}
    return modules, info.get("build"), problem


def cpu(problem: str | None = None) -> dict[str, Any]:
    """Instruction set in use, those this processor supports, torch's view, threads."""
    supported = []
    if ops.loaded("_C") and problem is None:
        now = ops.cpu_isa()
        for name in _ISAS:
            try:
                ops.set_cpu_isa(name)
                supported.append(name)
            except RuntimeError:
                continue
        ops.set_cpu_isa(now)
    return {
        "isa": ops.cpu_isa() if problem is None else None,
        "supported": supported,
        "torch": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def cuda() -> list[dict[str, Any]]:
    """The CUDA devices that torch sees: name, compute capability, memory in bytes."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        capability = f"{device.major}.{device.minor}"
        found.append({"name": device.name, "capability": capability, "memory": device.total_memory})
    return found


def devices() -> list[str]:
    """Device types on which the operators are examined."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def warnings(
    modules: Mapping[str, str],
    isa_problem: str | None = None,
    teams: Mapping[str, float] | None = None,
    held: Mapping[str, Any] | None = None,
) -> list[str]:
    """What a user should know, as sentences."""
    found = []
    other = _version("dpad")
    if other is not None:
        found.append(
            f"the unrelated distribution 'dpad' {other} (neuroscience) is installed and uses the "
            "same import name: pip uninstall dpad, then install dpad-dllm again"
        )
    slow = None if teams is None else threads.advice(teams)
    if slow is not None:
        found.append(slow)
    if held is not None and held["agrees"] is False:
        found.append(
            f"a decoding took {held['ratio']:.2f} times the memory that was counted for it: do not "
            "rely on Engine.capacity() here"
        )
    if isa_problem is not None:
        found.append(isa_problem)
    if modules["_C"] != "loaded":
        found.append(f"every operator runs in plain torch, correct but slower: {modules['_C']}")
    elif torch.cuda.is_available() and modules["_C_cuda"] != "loaded":
        found.append(f"operators run in plain torch on the GPU: {modules['_C_cuda']}")
    return found


def check_operators(device_type: str) -> list[dict[str, Any]]:
    """One row per operator and dtype: largest error of its cases against the plain-torch twin.

    Args:
        device_type: "cpu" or "cuda"; the twin always runs on the CPU.

    Returns:
        list of dicts: operator, device, dtype ("-" where it has no choice), where ("kernel" or
        "plain torch"), max_error (absolute; None if not finite), tolerance (absolute), ok, and
        error, the text of an exception.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for case in cases(device_type):
        dtype = "-" if case.dtype is None else str(case.dtype).removeprefix("torch.")
        kernel = ops.has_kernel(case.operator, device_type)
        row = rows.setdefault(
            (case.operator, dtype),
            {
                "operator": case.operator,
                "device": device_type,
                "dtype": dtype,
                "where": "kernel" if kernel else "plain torch",
                "max_error": 0.0 if kernel else None,
                "tolerance": 0.0,
                "ok": True if kernel else None,
                "error": None,
            },
        )
        if kernel:
            _examine(case, device_type, row)
    return sorted(rows.values(), key=lambda row: row["operator"])


def _examine(case: Case, device_type: str, row: dict[str, Any]) -> None:
    """Runs one case on the kernel and on the twin and adds what was found to `row`."""
    try:
        with torch.inference_mode():
            found = _results(getattr(ops, case.operator), case.arguments, device_type)
            expected = _results(getattr(reference, case.operator), case.arguments, "cpu")
        error, allowed = _difference(found, expected, case.tolerance)
    except Exception as problem:  # an operator that fails is reported, not raised
        row.update(ok=False, max_error=None, error=f"{type(problem).__name__}: {problem}")
        return
    finite = error < float("inf") and row["max_error"] is not None
    row["max_error"] = max(row["max_error"], error) if finite else None
    row["tolerance"] = max(row["tolerance"], allowed)
    row["ok"] = bool(row["ok"] and error <= allowed)


def _results(
    function: Callable[..., Any], arguments: Mapping[str, Any], device_type: str
) -> list[Tensor]:
    """Everything a call returned or may have written, as tensors on the CPU."""
    copies = {
        name: value.clone().to(device_type) if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    returned = function(**copies)
    returned = returned if isinstance(returned, tuple) else (returned,)
    tensors = [t for t in (*returned, *copies.values()) if isinstance(t, torch.Tensor)]
    return [t.cpu() for t in tensors]


def _difference(
    found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float
) -> tuple[float, float]:
    """(largest absolute error, the largest one allowed); infinite where shapes or types differ."""
    worst, allowed = 0.0, 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf"), allowed
        if b.numel() == 0:
            continue
        error = (a.double() - b.double()).abs().nan_to_num(nan=float("inf")).max().item()
        limit = tolerance * max(1.0, b.double().abs().max().item()) if b.is_floating_point() else 0
        if error > limit:
            return max(error, worst), limit
        worst, allowed = max(worst, error), max(allowed, limit)
    return worst, allowed
