"""Times the gap behind a small kernel in a CUDA graph."""

import ctypes
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.timing import Timer, captured, is_cuda, profiled, tried
from dpad import ops

measured = pytest.mark.measured
REPEATS = 30
GAP = Path(__file__).with_name("gap.cu")
DEPENDENT = "gap, with and without programmatic dependent launch"
NAMES = ("torch add_", "dpad add_rms_norm_", "dpad swiglu")
SIZES, SMALL = ([(name, *size) for name in NAMES] for size in ((32, 4096), (4, 64)))


def slope(function, device, few, many, repeats):
    """Seconds of one call among many in a graph, the graph's own launch left out, and how long its
    kernels run by the profiler.
    """
    timer = Timer(device, 4)

    def replayed(count):
        return captured(lambda: [function() for _ in range(count)], device)

    graphs = [replayed(count) for count in (few, many)]
    low, high = (timer.median(graph, repeats) for graph in graphs)
    each = (high - low) / (many - few)
    seen = tried(profiled, graphs[1], device)
    if "unavailable" in seen:
        return {"seconds": each, "profiler": seen["unavailable"]}
    busy = seen["busy"] / many
    return {"seconds": each, "busy": busy, "gap": each - busy, "kernels": seen["kernels"] / many}


def launcher(arch, folder):
    """`launch` of `gap.cu`, compiled into a folder."""
    compiler, module = shutil.which("nvcc"), str(folder / "gap.so")
    if compiler is None:
        pytest.skip("nvcc is not installed: programmatic dependent launch needs gap.cu")
    command = [compiler, "-shared", "-Xcompiler", "-fPIC", "-std=c++17", "-O2", f"-arch=sm_{arch}"]
    command += ["-o", module, str(GAP)]
    subprocess.run(command, check=True, timeout=90)
    launch = ctypes.CDLL(module).launch
    launch.restype, pointer = ctypes.c_char_p, ctypes.c_void_p
    launch.argtypes = (pointer, pointer, ctypes.c_int, ctypes.c_int, ctypes.c_bool)
    return launch


def queue(launch, data, size, early):
    """One kernel on the current stream."""
    stream = torch.cuda.current_stream().cuda_stream
    error = launch(stream, data.data_ptr(), size, data.numel(), early)
    if error is not None:
        raise RuntimeError(error.decode())


@measured(DEPENDENT, least=15)
def test_dependent_launch(record, figures, repeats, tmp_path):
    """Expectation 4: what such launches save, in microseconds."""
    if not is_cuda(figures.device):
        pytest.skip("no CUDA device")
    arch = figures.machine["architecture"]
    launch, data = launcher(arch, tmp_path), torch.zeros(32 * 4096, device=figures.device)
    record["microseconds"] = found = {"dependent_launch": int(arch) >= 90}
    for kind in ("plain", "early") if found["dependent_launch"] else ("plain",):
        for name, size in (("empty", 0), ("small", data.numel())):
            call = partial(queue, launch, data, size, kind == "early")
            each = slope(call, figures.device, 64, 512, repeats)["seconds"]
            found[f"{name}, {kind}"] = 1e6 * each


@measured("gap, {name}, {rows} x {width}", "name, rows, width", SIZES, SMALL, least=3)
def test_gap(record, figures, repeats, name, rows, width):
    """Expectation 4: small operators, one after the other in a graph."""
    few, many = (2, 8) if figures.small else (64, 256)
    x, weight = (torch.randn(n, width, device=figures.device).bfloat16() for n in (rows, 1))
    delta = torch.zeros_like(x)
    functions = {
        "torch add_": lambda: x.add_(delta),
        "dpad add_rms_norm_": lambda: ops.add_rms_norm_(x, delta, weight[0], 1e-5),
        "dpad swiglu": lambda: ops.swiglu(x, delta),
    }
    record.update(slope(functions[name], figures.device, few, many, repeats))
