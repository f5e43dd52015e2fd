"""Times operators against their best stock peers and against the bandwidth.

Outputs are compared first: a ratio between different results means nothing. Then all functions of a
case take turns, with the L2 cache emptied before each call. The floor is the bytes that have to be
moved over the datasheet's bandwidth, or the operations over its rate; `share_of_copy` is the same
for the bandwidth that a copy reaches on this device.
"""

import pytest
import torch

from benchmarks import cases
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
_LLADA, _DREAM = (32, 32), (28, 4)  # heads and K/V heads
# (name, sizes) of the cases: what goals ask for comes first.
CASES = (
    ("confidence", (32, 126464, 0.0)),
    *(("attention", (1, 32, *_LLADA, keys)) for keys in (8192, 1024, 4096, 512)),
    *(("attention", (n, 32, *_LLADA, keys)) for n, keys in ((4, 4096), (16, 1024), (16, 4096))),
    *(("attention", (1, rows, *_LLADA, 1024)) for rows in (33, 96)),
    *(("attention", (n, 33, *_DREAM, keys)) for n, keys in ((1, 1024), (1, 8192), (16, 4096))),
    *(("attention", (1, 64, *heads, keys)) for heads in (_LLADA, _DREAM) for keys in (1024, 4096)),
    *(("attention", (4, rows, *_LLADA, 4096)) for rows in (64, 128)),
    *(("confidence", (rows, 126464, 0.0)) for rows in (4, 128)),
    *(("confidence", (rows, 126464, 1.0)) for rows in (32, 4, 128)),
    *(("norm", (rows, 4096)) for rows in (32, 128)),
    *(("swiglu", (rows, 3 * 4096)) for rows in (32, 128)),
    ("rope", (32, 32, 32)),
    ("rope", (33, 28, 4)),
    *(("route", (rows, 64)) for rows in (32, 256)),
    *(("combine", (rows, 2048)) for rows in (32, 256)),
    ("gather", (4, 32, 1024)),
    ("commits", (32, 1024)),
    *(("routed_mlp", (rows, 2048, 1024)) for rows in (32, 128)),
)
SMALL = (
    ("routed_mlp", (8, 64, 32)),
    ("confidence", (2, 300, 0.0)),
    ("attention", (1, 4, 4, 2, 70, 64)),
    ("confidence", (2, 300, 1.0)),
    ("norm", (3, 64)),
    ("swiglu", (3, 192)),
    ("rope", (3, 4, 2, 64, 20)),
    ("route", (3, 64)),
    ("combine", (3, 2048)),
    ("gather", (4, 32, 1024)),
    ("commits", (32, 1024)),
)


def routed_mlp(device, rows, hidden, width):
    """A layer's routed MLP, of which a row gets 8 of 64 experts, against Transformers' own."""
    from benchmarks.routed_mlp import case_of  # it needs Transformers 5

    with torch.device(device):
        return case_of(rows, hidden, width, torch.bfloat16)


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
            case = {**cases.MAKERS, "routed_mlp": routed_mlp}[name](figures.device, *sizes)
            return measure(case, timer, figures.limits, copy, repeats)

    return one


@measured("{operator}{sizes}", "operator, sizes", CASES, SMALL)
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
    timer, case = Timer(figures.device), cases.MAKERS["confidence"](figures.device, rows, vocab)
    case.check()
    for name in ("cold", "hot", "again"):
        record[name] = timer.median(case.functions["dpad"], repeats, hot=name == "hot")
    record["floor"] = case.bytes / figures.limits.bandwidth
