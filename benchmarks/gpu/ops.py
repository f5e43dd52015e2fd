"""Times every operator on a GPU against its best stock peer and against the bandwidth floor.

    python -m benchmarks.gpu.ops --json operators.json

Outputs are compared first: a ratio between different results means nothing. Then all functions of a
case take turns, with the L2 cache emptied before each call. The floor is the bytes that have to be
moved over the datasheet's bandwidth, or the operations over its rate; `share_of_copy` is the same
for the bandwidth that a copy reaches on this device.
"""

import sys

import torch

from benchmarks.gpu import cases, results
from benchmarks.gpu.floor import least
from benchmarks.gpu.timing import Timer, summary


def measure(case, timer, limits, copy, repeats):
    """Checks a case and times it; its record as plain values."""
    about = {"name": case.name, "sizes": case.sizes}
    problem = case.check()
    if problem is not None:
        return {**about, "problem": f"dpad: {problem}"}
    times = {n: summary(t) for n, t in timer.turns(case.functions, repeats).items()}
    peers = {n: t["median"] for n, t in times.items() if n != "dpad"}
    best = min(peers, key=peers.get) if peers else None
    ours = times["dpad"]["median"]
    floor = least(limits, case.bytes, case.operations)
    return {
        **about,
        "bytes": case.bytes,
        "floor": floor,
        "share_of_floor": floor / ours,
        "share_of_bandwidth": case.bytes / limits.bandwidth / ours,
        "share_of_copy": case.bytes / copy / ours,
        "best_peer": best,
        "speed_up": peers[best] / ours if best else None,
        "unavailable": case.unavailable,
        "seconds": times,
    }


def line(record):
    """A record in words."""
    ours = record["seconds"]["dpad"]["median"] * 1e6
    text = f"{record['name']}: {ours:.1f} us, {record['share_of_bandwidth']:.0%} of bandwidth"
    if record["best_peer"] is None:
        return text
    peer = record["seconds"][record["best_peer"]]["median"] * 1e6
    return f"{text}, {record['speed_up']:.2f}x {record['best_peer']} ({peer:.1f} us)"


def run(found, makers, repeats):
    """Measures all cases into `found`."""
    timer = Timer(found.device)
    copy = found.machine["copy_bytes_per_second"]
    for make in makers:
        label = f"{make.func.__name__}{make.args[1:]}"
        found.case(label, lambda make=make: measure(make(), timer, found.limits, copy, repeats))


def main(arguments=None):
    options = results.parse(results.parser("ops", __doc__), arguments)
    torch.manual_seed(0)
    found = results.Results(options, line)
    with torch.inference_mode():
        run(found, cases.makers(options.device, options.small), options.repeats)
    return found.status


if __name__ == "__main__":
    sys.exit(main())
