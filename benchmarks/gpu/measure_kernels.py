"""Measurements of single kernels: attention, gaps in a graph, the sampler (`measurements`)."""

import json
import shutil
import subprocess
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import cases
from benchmarks.gpu import ops as operators
from benchmarks.gpu.timing import FLUSH, Timer, captured
from dpad import ops

GAP = Path(__file__).with_name("gap.cu")
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def attention_sizes(small):
    """(queries, heads, K/V heads, keys, head size): a cached step's, then how many rows change."""
    if small:
        return [(4, 4, 2, 70, 64), (8, 4, 2, 70, 64)]
    llada, dream = (32, 32), (28, 4)
    sizes = [(32, *llada, keys, 128) for keys in (1024, 4096, 512, 2048, 8192)]
    for heads in (llada, dream):
        for queries in (128, 256, 512, 1024):
            sizes += [(queries, *heads, keys, 128) for keys in (1024, 4096)]
    return sizes


def attention(found, small, repeats):
    """3: our kernel against scaled_dot_product_attention in its kinds."""
    timer, copy = Timer(found.device), found.machine["copy_bytes_per_second"]
    for queries, heads, kv_heads, keys, dim in attention_sizes(small):

        def one(size=(queries, heads, kv_heads, keys, dim)):
            case = cases.attention(found.device, 1, *size)
            return operators.measure(case, timer, found.limits, copy, repeats)

        name = f"attention, {queries} rows, {heads}/{kv_heads} heads, {keys} keys"
        found.case(name, one)


def profiled(function, device):
    """What the device did in one call: kernels, copies, its busy seconds, launches, waits."""
    cuda = torch.device(device).type == "cuda"
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    function()
    with profile(activities=kinds) as seen:
        function()
        if cuda:
            torch.cuda.synchronize()
    done = [e for e in seen.events() if e.device_type == DeviceType.CUDA]
    done = [e for e in done if not getattr(e, "is_user_annotation", False)]
    if cuda and not done:
        raise RuntimeError("the profiler saw nothing of the device")
    copies = [e for e in done if e.name.startswith(("Memcpy", "Memset"))]
    calls = Counter(e.name for e in seen.events() if e.device_type == DeviceType.CPU)
    return {
        "kernels": len(done) - len(copies),
        "copies": len(copies),
        "busy": sum(e.time_range.elapsed_us() for e in done) / 1e6,
        "launches": sum(n for name, n in calls.items() if "Launch" in name),
        "waits": sum(calls[name] for name in SYNCS) - cuda,  # the last one is ours
        "operators": sum(n for name, n in calls.items() if name.startswith(("aten::", "dpad::"))),
    }


def tried(function, *arguments):
    """A tool's record, or why there is none."""
    try:
        return function(*arguments)
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        return {"unavailable": f"{type(error).__name__}: {text}"}


def slope(function, device, few=64, many=256):
    """Seconds of one call among many in a graph, the graph's own launch left out, and how long its
    kernels run by the profiler.
    """
    timer = Timer(device, FLUSH // 4)

    def replayed(count):
        return captured(lambda: [function() for _ in range(count)], device)

    graphs = [replayed(count) for count in (few, many)]
    low, high = (timer.median(graph, 30) for graph in graphs)
    each = (high - low) / (many - few)
    seen = tried(profiled, graphs[1], device)
    if "unavailable" in seen:
        return {"seconds": each, "profiler": seen["unavailable"]}
    busy = seen["busy"] / many
    return {"seconds": each, "busy": busy, "gap": each - busy, "kernels": seen["kernels"] / many}


def own_gaps(found, small):
    """4: small operators, one after the other in a graph."""
    rows, width = (4, 64) if small else (32, 4096)
    x, weight = (torch.randn(n, width, device=found.device).bfloat16() for n in (rows, 1))
    delta, weight = torch.zeros_like(x), weight[0]
    functions = {
        "torch add_": lambda: x.add_(delta),
        "dpad add_rms_norm_": lambda: ops.add_rms_norm_(x, delta, weight, 1e-5),
        "dpad swiglu": lambda: ops.swiglu(x, delta),
    }
    for name, function in functions.items():
        measure = partial(slope, function, found.device, *((2, 8) if small else ()))
        found.case(f"gap, {name}, {rows} x {width}", measure, least=3)


def dependent_launch(arch):
    """4: `gap.cu`, which torch cannot stand in for: it launches no kernel so."""
    compiler = shutil.which("nvcc")
    if compiler is None:
        return {"skipped": "nvcc is not installed: programmatic dependent launch needs gap.cu"}
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "gap")
        target = f"arch=compute_{arch},code=sm_{arch}"
        command = [compiler, "-std=c++17", "-O2", "-gencode", target, "-o", program, str(GAP)]
        for step in (command, [program]):
            done = subprocess.run(step, capture_output=True, text=True, timeout=90, check=False)
            if done.returncode != 0:
                return {"problem": (done.stderr or "no message").splitlines()[0]}
    return {"microseconds": json.loads(done.stdout)}


def gaps(found, small, repeats):
    """4: per-kernel gaps in a graph."""

    def program():
        if torch.device(found.device).type != "cuda":
            return {"skipped": "no CUDA device"}
        return dependent_launch("{}{}".format(*torch.cuda.get_device_capability(found.device)))

    found.case("gap, with and without programmatic dependent launch", program, least=15)
    own_gaps(found, small)


def sampler(found, small, repeats):
    """5: `confidence` with a cold and a hot L2 cache."""
    timer = Timer(found.device)
    for rows, vocab in ((2, 300),) if small else ((32, 126464), (128, 126464), (4, 126464)):

        def one(rows=rows, vocab=vocab):
            case = cases.confidence(found.device, rows, vocab)
            problem = case.check()
            if problem is not None:
                return {"problem": f"dpad: {problem}"}
            ours = case.functions["dpad"]
            return {
                "rows": rows,
                "cold": timer.median(ours, repeats),
                "hot": timer.median(ours, repeats, hot=True),
                "again": timer.median(ours, repeats),
                "floor": case.bytes / found.limits.bandwidth,
            }

        found.case(f"confidence, {rows} x {vocab}", one)
