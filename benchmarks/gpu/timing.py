"""Times of calls on a device: single ones with the L2 cache cold or hot, graphs, by the clock."""

import statistics
import time

import torch

# Bytes read before a call: many times what any L2 holds, and a few hundred microseconds in which
# the host queues the call that is measured.
FLUSH = 1 << 30


class Timer:
    """CUDA events around one call; on the CPU, where it only serves the tests, the clock.

    The caches are emptied by reading, not by writing: lines that were written would have to be
    stored while the call is measured.
    """

    def __init__(self, device, flush=FLUSH):
        self.cuda = torch.device(device).type == "cuda"
        self.flush = torch.zeros(flush // 4, device=device) if self.cuda else None

    def once(self, function, hot=False):
        """Seconds of one call; `hot`: of a second one right behind the first."""
        if not self.cuda:
            if hot:
                function()
            begun = time.perf_counter()
            function()
            return time.perf_counter() - begun
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # The host queues the call while the device still reads: no launch time is measured.
        self.flush.amax()
        if hot:
            function()
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

    def median(self, function, repeats=50, hot=False):
        return statistics.median(self.turns({"it": function}, repeats, hot=hot)["it"])


def summary(values):
    """Median, middle 80 % and fastest, in seconds; `noise` is how far the medians of the odd and
    of the even turns, one version timed twice, are apart, as a share.
    """
    deciles = statistics.quantiles(values, n=10)
    halves = [statistics.median(values[start::2]) for start in (0, 1)]
    return {
        "median": statistics.median(values),
        "p10": deciles[0],
        "p90": deciles[-1],
        "fastest": min(values),
        "noise": abs(halves[0] - halves[1]) / statistics.median(values),
    }


def captured(function, device):
    """`function` as one replayed CUDA graph; itself where there is none."""
    if torch.device(device).type != "cuda":
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def per_call(functions, device, repeats=50):
    """Median seconds of one of `functions` in a graph that calls all of them, one after the other.

    With inputs of their own, larger together than the L2 cache, each finds it cold.
    """

    def every():
        for function in functions:
            function()

    # The buffer read before is large enough to hide the launch of the graph.
    replay, timer = captured(every, device), Timer(device, FLUSH // 4)
    return timer.median(replay, repeats) / len(functions)


def seconds(function, repeats, device, warm_up=2):
    """Median seconds of a call that ends with a look at the device, as a decoder's step does."""
    cuda, times = torch.device(device).type == "cuda", []
    for turn in range(repeats + warm_up):
        if cuda:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        function()
        if cuda:
            torch.cuda.synchronize()
        if turn >= warm_up:
            times.append(time.perf_counter() - begun)
    return statistics.median(times)
