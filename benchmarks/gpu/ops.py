"""Times every operator on a GPU against its best stock peer and against the bandwidth floor.

    python -m benchmarks.gpu.ops --json operators.json

Outputs are compared first: a ratio between different results means nothing. Then all functions of a
case take turns, with the L2 cache emptied before each call. The floor is the bytes that have to be
moved over the bandwidth that a copy reaches on this device.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.gpu import cases
from benchmarks.gpu.describe import copy_bandwidth, describe
from benchmarks.gpu.timing import Timer, summary


def measure(case, timer, bandwidth, repeats):
    """Checks a case and times it; its record as plain values."""
    expected = case.expected()
    for name, function in case.functions.items():
        problem = case.difference(function(), expected)
        if problem is not None:
            return {"name": case.name, "problem": f"{name}: {problem}"}
    times = {n: summary(t) for n, t in timer.turns(case.functions, repeats).items()}
    peers = {n: t["median"] for n, t in times.items() if n != "dpad"}
    best = min(peers, key=peers.get) if peers else None
    ours, floor = times["dpad"]["median"], case.bytes / bandwidth
    return {
        "name": case.name,
        "bytes": case.bytes,
        "floor": floor,
        "share_of_bandwidth": floor / ours,
        "best_peer": best,
        "speed_up": peers[best] / ours if best else None,
        "unavailable": case.unavailable,
        "seconds": times,
    }


def line(record):
    if "problem" in record:
        return f"{record['name']}: NOT TIMED, {record['problem']}"
    ours = record["seconds"]["dpad"]["median"] * 1e6
    text = f"{record['name']}: {ours:.1f} us, {record['share_of_bandwidth']:.0%} of bandwidth"
    if record["best_peer"] is None:
        return text
    peer = record["seconds"][record["best_peer"]]["median"] * 1e6
    return f"{text}, {record['speed_up']:.2f}x {record['best_peer']} ({peer:.1f} us)"


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.ops")
    parser.add_argument("--json", type=Path, required=True, help="file of the figures")
    parser.add_argument("--repeats", type=int, default=50, help="timed turns of every function")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the program")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the program")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    options = parser.parse_args(arguments)
    if options.repeats < 2:
        parser.error("--repeats must be at least 2")
    torch.manual_seed(0)
    timer = Timer(options.device)
    bandwidth = copy_bandwidth(options.device, (1 << 20) if options.small else (1 << 30))
    records = []
    with torch.inference_mode():
        for make in cases.makers(options.device, options.small):
            case = make()
            if options.only not in case.name:
                continue
            records.append(measure(case, timer, bandwidth, options.repeats))
            print(line(records[-1]), flush=True)
            del case
    found = {"machine": describe(options.device), "bandwidth": bandwidth, "cases": records}
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if any("problem" in record for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
