"""Times of single calls on a device, with its L2 cache emptied before each."""

import statistics
import time

import torch

FLUSH = 256 << 20  # bytes written before a call: more than any L2 holds


class Timer:
    """CUDA events around one call; on the CPU, where it only serves the tests, the clock."""

    def __init__(self, device, flush=FLUSH):
        self.cuda = torch.device(device).type == "cuda"
        self.flush = torch.empty(flush, dtype=torch.uint8, device=device) if self.cuda else None

    def once(self, function):
        """Seconds of one call."""
        if not self.cuda:
            begun = time.perf_counter()
            function()
            return time.perf_counter() - begun
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # The host queues the call while the device still writes: no launch time is measured.
        self.flush.zero_()
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def turns(self, functions, repeats, warm_up=3):
        """Name -> seconds of every repeat; all functions take turns, in changing order."""
        times = {name: [] for name in functions}
        for turn in range(-warm_up, repeats):
            names = list(functions)
            for name in names if turn % 2 else names[::-1]:
                seconds = self.once(functions[name])
                if turn >= 0:
                    times[name].append(seconds)
        return times

    def median(self, function, repeats=50):
        return statistics.median(self.turns({"it": function}, repeats)["it"])


def summary(values):
    """Median, middle 80 % and fastest, in seconds."""
    deciles = statistics.quantiles(values, n=10)
    return {
        "median": statistics.median(values),
        "p10": deciles[0],
        "p90": deciles[-1],
        "fastest": min(values),
    }
