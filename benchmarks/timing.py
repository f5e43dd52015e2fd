"""Times of calls in turns, on a CPU or on a CUDA device with its L2 cache cold or hot."""

import statistics
import time

import torch

# Bytes read before a call on a device: many times what any L2 holds, and a few hundred microseconds
# in which the host queues the call that is measured.
FLUSH = 1 << 30


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
