"""Times of CUDA graphs, times by the clock, and what a profiler saw."""

import math
from collections import Counter

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import in_a_line
from benchmarks.timing import Timer, is_cuda
from dpad.decode.device import CAPTURES

SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def captured(function, device):
    """`function` as one replayed CUDA graph; itself where there is none."""
    capture = CAPTURES.get(torch.device(device).type)
    return function if capture is None else capture(function, capture.pool()).replay


def per_call(function, many, device, repeats=50, work=0):
    """Median seconds of a call of `function` in a graph that calls it with one after the other of
    `many`, in turns, until they are `work` bytes.

    With tensors that are larger together than the L2 cache, each call finds it cold.
    """
    size = sum(t.nbytes for t in many[0]) if isinstance(many[0], tuple) else many[0].nbytes
    turns = max(len(many), math.ceil(work / size))

    def every():
        for turn in range(turns):
            function(many[turn % len(many)])

    # The buffer read before is large enough to hide the launch of the graph.
    replay, timer = captured(every, device), Timer(device, 4)
    return timer.median(replay, repeats) / turns


def seconds(function, repeats, device, warm_up=2):
    """Median seconds of a call that ends with a look at the device, as a decoder's step does."""
    wait = torch.cuda.synchronize if is_cuda(device) else lambda: None
    wait()
    return Timer("cpu").median(lambda: (function(), wait()), repeats, warm_up)


def profiled(function, device):
    """What the device did in one call: kernels, copies, its busy seconds, launches, waits."""
    cuda = is_cuda(device)
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
        return {"unavailable": in_a_line(error)}
