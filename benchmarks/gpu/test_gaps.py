"""Times the gap behind a small kernel in a CUDA graph."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.device import architecture
from benchmarks.gpu.timing import captured, profiled, tried
from benchmarks.timing import Timer, is_cuda
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


def dependent_launch(arch, folder):
    """Figures of `gap.cu`, which torch cannot stand in for: it launches no kernel so."""
    compiler, program = shutil.which("nvcc"), str(folder / "gap")
    if compiler is None:
        return {"skipped": "nvcc is not installed: programmatic dependent launch needs gap.cu"}
    target = f"arch=compute_{arch},code=sm_{arch}"
    command = [compiler, "-std=c++17", "-O2", "-gencode", target, "-o", program, str(GAP)]
    for step in (command, [program]):
        done = subprocess.run(step, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode != 0:
            return {"problem": (done.stderr or "no message").splitlines()[0]}
    return {"microseconds": json.loads(done.stdout)}


@measured(DEPENDENT, least=15)
def test_dependent_launch(record, device, tmp_path):
    """Expectation 4: what such launches save."""
    if not is_cuda(device):
        pytest.skip("no CUDA device")
    record.update(dependent_launch(architecture(device), tmp_path))


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
