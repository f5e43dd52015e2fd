"""Times of calls in turns, on a CPU or on a CUDA device with its L2 cache cold or hot; of CUDA
graphs; and what a profiler saw.
"""

import math
import statistics
import time
from collections import Counter

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import in_a_line
from dpad.decode.device import CAPTURES

# Bytes read before a call on a device: many times what any L2 holds, and a few hundred microseconds
# in which the host queues the call that is measured.
FLUSH = 1 << 30
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def is_cuda(device):
    return torch.device(device).type == "cuda"


class Timer:
    """CUDA events around one call; on the CPU the clock. A `share` of 4: a quarter of `FLUSH` is
    read before.

    The caches are emptied by reading, not by writing: lines that were written would have to be
    stored while the call is measured.
    """

    def __init__(self, device, share=1):
        self.cuda = is_cuda(device)
        self.flush = torch.zeros(FLUSH // 4 // share, device=device) if self.cuda else None

    def once(self, function, hot=False):
        """Seconds of one call; `hot`: of a second one right behind the first."""
        if self.cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            # The host queues the call while the device still reads: no launch time is measured.
            self.flush.amax()
        if hot:
            function()
        if not self.cuda:
            begun = time.perf_counter()
            function()
            return time.perf_counter() - begun
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def turns(self, functions, repeats, warm_up=3, hot=False):
        """Name -> seconds of every repeat; all functions take turns, in changing order."""
        times = {name: [] for name in functions}
        for turn in range(-warm_up, repeats):
            names = list(functions)
            for name in names if turn % 2 else names[::-1]:
                seconds = self.once(functions[name], hot)
                if turn >= 0:
                    times[name].append(seconds)
        return times

    def median(self, function, repeats=50, warm_up=3, hot=False):
        return statistics.median(self.turns({"it": function}, repeats, warm_up, hot)["it"])


def summary(values):
    """Median, middle 80 % and fastest, in seconds; `noise` is how far the medians of the odd and
    of the even turns, one version timed twice, are apart, as a share.
    """
    deciles = statistics.quantiles(values, n=10)
    median, *halves = (statistics.median(v) for v in (values, values[::2], values[1::2]))
    noise = abs(halves[0] - halves[1]) / median
    spread = {"p10": deciles[0], "p90": deciles[-1], "fastest": min(values)}
    return {"median": median, **spread, "noise": noise}


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
