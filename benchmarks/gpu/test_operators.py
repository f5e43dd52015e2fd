"""Times operators against their best stock peers and against the bandwidth.

Outputs are compared first: a ratio between different results means nothing. Then all functions of a
case take turns, with the L2 cache emptied before each call. The floor is the bytes that have to be
moved over the datasheet's bandwidth, or the operations over its rate; `share_of_copy` is the same
for the bandwidth that a copy reaches on this device.
"""

import pytest
import torch

from benchmarks.gpu import cases
from benchmarks.gpu.floor import least
from benchmarks.timing import Timer, summary

measured = pytest.mark.measured
REPEATS = 50
# Rows, heads, K/V heads, keys, head size: a cached step's, then those at which rows change.
ATTENDED = [(32, 32, 32, keys, 128) for keys in (1024, 4096, 512, 2048, 8192)] + [
    (rows, *heads, keys, 128)
    for heads in ((32, 32), (28, 4))
    for rows in (128, 256, 512, 1024)
    for keys in (1024, 4096)
]
SAMPLED = [(rows, 126464) for rows in (32, 128, 4)]


def measure(case, timer, limits, copy, repeats):
    """Checks a case and times it; its figures as plain values."""
    case.check()
    times = {n: summary(t) for n, t in timer.turns(case.functions, repeats).items()}
    peers = {n: t["median"] for n, t in times.items() if n != "dpad"}
    best = min(peers, key=peers.get) if peers else None
    ours = times["dpad"]["median"]
    floor = least(limits, case.bytes, case.operations)
    return {
        "name": case.name,
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


@pytest.fixture(scope="module")
def timed(figures, repeats):
    """A function that measures a case."""
    timer, copy = Timer(figures.device), figures.machine["copy_bytes_per_second"]

    def one(name, *sizes):
        with torch.inference_mode():
            case = cases.MAKERS[name](figures.device, *sizes)
            return measure(case, timer, figures.limits, copy, repeats)

    return one


@measured("{operator}{sizes}", "operator, sizes", cases.CASES, cases.SMALL)
def test_operator(record, timed, operator, sizes):
    record.update(timed(operator, *sizes))


@measured(
    "attention, {queries} rows, {heads}/{kv_heads} heads, {keys} keys",
    "queries, heads, kv_heads, keys, dim",
    ATTENDED,
    [(4, 4, 2, 70, 64), (8, 4, 2, 70, 64)],
)
def test_attention(record, timed, queries, heads, kv_heads, keys, dim):
    """Expectation 3: our kernel against scaled_dot_product_attention in its kinds."""
    record.update(timed("attention", 1, queries, heads, kv_heads, keys, dim))


@measured("confidence, {rows} x {vocab}", "rows, vocab", SAMPLED, [(2, 300)])
def test_sampler(record, figures, repeats, rows, vocab):
    """Expectation 5: `confidence` with a cold and a hot L2 cache."""
    timer, case = Timer(figures.device), cases.confidence(figures.device, rows, vocab)
    case.check()
    for name in ("cold", "hot", "again"):
        record[name] = timer.median(case.functions["dpad"], repeats, hot=name == "hot")
    record["floor"] = case.bytes / figures.limits.bandwidth
