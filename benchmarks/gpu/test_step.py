"""Times passes of whole models at the released shapes, random weights; cached steps first.

A step is everything between two looks at the status: gather, embedding, all layers, head,
`confidence`, `unmask_`. dpad's runs eagerly and as one replayed CUDA graph, with the model's own
projections and with fused ones; the partner is `benchmarks.gpu.plain`, the published algorithm in
plain torch with the same decisions. Their logits are compared first; where they differ, the times
are kept and the record says so. A refresh is the pass over all slots that begins a block.
"""

from contextlib import contextmanager

import pytest
import torch

from benchmarks.gpu.floor import pass_floor
from benchmarks.gpu.models import BLOCK
from benchmarks.gpu.passes import Step
from benchmarks.gpu.plain import PlainStep
from benchmarks.timing import profiled, seconds, tried
from dpad.models.adapter import find_adapter
from dpad.models.fused_projections import FusedProjections

measured = pytest.mark.measured
REPEATS = 20
# Sequences and keys, what tells most first.
CELLS = ((1, 1024), (1, 4096), (4, 1024), (16, 1024), (4, 4096), (16, 4096))

RECENT = [(rows, keys) for keys in (1024, 4096) for rows in (64, 96, 128)]


def compare(ours, plain, dtype):
    """None, or how far the partner's logits are from ours."""
    a = ours.logits().float()
    b = plain.logits().float().view_as(a)
    size = b.abs().max().item()
    error = (a - b).abs().max().item()
    allowed = size * (1e-4 if dtype == torch.float32 else 0.1)
    return None if error <= allowed else f"logits differ by {error:.2g} of {size:.2g}"


@contextmanager
def fused(adapter):
    """Inside, the adapter's projections run fused."""
    adapter.fused = FusedProjections(adapter.layers)
    adapter.fused.refresh()
    try:
        yield
    finally:
        adapter.fused.free()
        adapter.fused = None


def measure(model, shape, limits, batch, keys, repeats):
    """One cell: the step eager and replayed, fused and not, the refresh, and the partner's."""
    adapter, head = find_adapter(model), batch * BLOCK
    whole = Step(adapter, batch, keys, keys)
    ours = Step(adapter, batch, keys, BLOCK, whole.arena)
    record = {
        "floor": pass_floor(shape, limits, [(batch, BLOCK, keys)], head),
        "refresh_floor": pass_floor(shape, limits, [(batch, keys, keys)], head),
    }
    few, warm_up = max(2, repeats // 4), int(batch * keys < 1 << 14)
    step = lambda function, turns=repeats: seconds(function, turns, adapter.device)  # noqa: E731
    refresh = lambda function: seconds(function, 2, adapter.device, warm_up)  # noqa: E731
    times = {"step, graph": step(ours.graph()), "step, eager": step(ours, few)}
    times["refresh"] = refresh(whole)
    try:
        plain = PlainStep(ours, model)
        plain.refresh()  # fills its cache
        record["problem"] = compare(ours, plain, adapter.dtype)
        times["step, plain torch"] = step(plain, few)
        times["refresh, plain torch"] = refresh(plain.refresh)
        record["speed_up"] = times["step, plain torch"] / times["step, graph"]
    except torch.OutOfMemoryError:
        record["plain_torch"] = "its cache does not fit into memory beside dpad's"
    plain = None
    with fused(adapter):
        times["step, graph, fused"] = step(ours.graph())
        times["refresh, fused"] = refresh(whole)
    found = {name: value for name, value in record.items() if value is not None}
    return {**found, "seconds": times}


@measured("{model}, {batch} x {keys} keys", "batch, keys", CELLS, [(2, 48)], least=15)
def test_step(record, network, shape, limits, repeats, batch, keys):
    record.update(measure(network, shape, limits, batch, keys, repeats))


@pytest.fixture
def time(adapter, repeats):
    """A function that times another."""
    return lambda function: seconds(function, repeats, adapter.device)


@measured("cached step, {keys} keys: launches", "keys", (1024, 4096), (48,), models=1)
def test_launches(record, network, adapter, time, keys):
    """Expectation 1: the published step, eager: time, kernels, waits; ours beside it."""
    step = Step(adapter, 1, keys)
    plain = PlainStep(step, network)
    plain.refresh()
    functions = {"plain torch": plain, "dpad, eager": step, "dpad, graph": step.graph()}
    record["seconds"] = {name: time(f) for name, f in functions.items()}
    record["profiled"] = {n: tried(profiled, f, adapter.device) for n, f in functions.items()}


@measured("refresh of {keys} rows", "keys", (512, 1024, 2048), (48,), least=10, models=1)
def test_refresh(record, network, adapter, shape, limits, time, keys):
    """Expectation 6: a pass over all slots, eager and as a graph, and the partner's."""
    step = Step(adapter, 1, keys, keys)
    plain = PlainStep(step, network)
    record["floor"] = pass_floor(shape, limits, [(1, keys, keys)], BLOCK)
    functions = {"eager": step, "graph": step.graph(), "plain torch": plain.refresh}
    record["seconds"] = {name: time(function) for name, function in functions.items()}


@measured("refresh of the last {rows} of {keys} rows", "rows, keys", RECENT, [(64, 96)], models=1)
def test_recent(record, adapter, shape, limits, time, rows, keys):
    """A refresh that looks back to the blocks before its own, eager and as a graph."""
    step = Step(adapter, 1, keys, rows)
    record["floor"] = pass_floor(shape, limits, [(1, rows, keys)], BLOCK)
    record["seconds"] = {"eager": time(step), "graph": time(step.graph())}


@measured("mixed pass, {keys} + 3 x 32 rows", "keys", (1024,), (48,), least=10, models=1)
def test_mixed(record, adapter, shape, limits, time, keys, others=3):
    """Expectation 8: one sequence's refresh with the cached steps of three others, and apart."""
    refresh, cached = (1, keys, keys), (others, BLOCK, keys)
    groups = {"mixed": [refresh, cached], "refresh": [refresh], "steps": [cached]}
    for name in ("floor", "seconds", "graph"):
        record[name] = {}
    for name, parts in groups.items():
        rows = [rows for count, rows, _ in parts for _ in range(count)]
        step = Step(adapter, len(rows), keys, rows)
        record["floor"][name] = pass_floor(shape, limits, parts, BLOCK * len(rows))
        record["seconds"][name], record["graph"][name] = time(step), time(step.graph())
