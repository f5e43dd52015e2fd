"""Times a cached denoising step at the released models' shapes, random weights.

    python -m benchmarks.gpu.step --json step.json

A step is everything between two looks at the status: gather, embedding, all layers, head,
`confidence`, `unmask_`. dpad's runs eagerly and as one replayed CUDA graph, with the model's own
projections and with fused ones; the partner is `benchmarks.gpu.plain`, the published algorithm in
plain torch with the same decisions. Their logits are compared first; where they differ, the times
are kept and the record says so. The refresh, the pass over all slots that begins a block, is timed
beside it. Whole decodings are `benchmarks.gpu.generate`'s.
"""

import gc
import sys

import torch

from benchmarks.gpu import models, results
from benchmarks.gpu.floor import pass_floor
from benchmarks.gpu.models import BLOCK
from benchmarks.gpu.passes import Step
from benchmarks.gpu.plain import PlainStep
from benchmarks.gpu.timing import seconds
from dpad.decode.cache import KVArena
from dpad.models.adapter import find_adapter
from dpad.models.fused_projections import FusedProjections

# Sequences and keys, what tells most first.
CELLS = ((1, 1024), (1, 4096), (4, 1024), (16, 1024), (4, 4096), (16, 4096))
SMALL_CELLS = ((2, 48),)


def compare(ours, plain, dtype):
    """None, or how far the partner's logits are from ours."""
    a, b = ours.logits().float(), plain.logits().float()
    size = b.abs().max().item()
    error = (a - b).abs().max().item()
    allowed = size * (1e-4 if dtype == torch.float32 else 0.1)
    return None if error <= allowed else f"logits differ by {error:.2g} of {size:.2g}"


class Fused:
    """While it is entered, the adapter's projections run fused."""

    def __init__(self, adapter):
        self.adapter = adapter

    def __enter__(self):
        self.adapter.fused = FusedProjections(self.adapter.layers)
        self.adapter.fused.refresh()

    def __exit__(self, *_):
        self.adapter.fused.free()
        self.adapter.fused = None


def partner(ours):
    """The plain step with its cache filled; None where a second cache does not fit."""
    plain = PlainStep(ours)
    try:
        plain.refresh()
    except torch.OutOfMemoryError:
        return None
    return plain


def measure(adapter, shape, limits, batch, keys, repeats):
    """One cell: the step eager and replayed, fused and not, the refresh, and the partner's."""
    device, arena = adapter.device, KVArena()
    arena.reserve(adapter, batch * keys)
    ours = Step(adapter, arena, batch, keys, BLOCK)
    whole = Step(adapter, arena, batch, keys, keys)
    head = batch * BLOCK
    record = {
        "batch": batch,
        "keys": keys,
        "floor": pass_floor(shape, limits, [(batch, BLOCK, keys)], head),
        "refresh_floor": pass_floor(shape, limits, [(batch, keys, keys)], head),
    }
    whole()  # fills the cache
    plain = partner(ours)
    problem = None if plain is None else compare(ours, plain, adapter.dtype)
    few, warm_up = max(2, repeats // 4), int(batch * keys < 1 << 14)
    times = record["seconds"] = {
        "step, graph": seconds(ours.graph(), repeats, device),
        "step, eager": seconds(ours, few, device),
        "refresh": seconds(whole, 2, device, warm_up),
    }
    if plain is None:
        record["plain_torch"] = "its cache does not fit into memory beside dpad's"
    else:
        times["step, plain torch"] = seconds(plain, few, device)
        times["refresh, plain torch"] = seconds(plain.refresh, 2, device, warm_up)
        record["speed_up"] = times["step, plain torch"] / times["step, graph"]
    del plain
    with Fused(adapter):
        times["step, graph, fused"] = seconds(ours.graph(), repeats, device)
        times["refresh, fused"] = seconds(whole, 2, device, warm_up)
    return record if problem is None else {**record, "problem": problem}


def line(record):
    """A record in words."""
    times = ", ".join(f"{name} {1e3 * t:.2f} ms" for name, t in record["seconds"].items())
    return f"{record['name']}: floor {1e3 * record['floor']:.2f} ms, {times}"


def measure_model(found, name, shape, options):
    """All cells of one model."""
    cells = SMALL_CELLS if options.small else CELLS
    dtype, longest = models.dtype_of(options.small), max(keys for _, keys in cells)
    make = lambda: find_adapter(models.build(shape, options.device, dtype, longest))  # noqa: E731
    adapter = found.made(f"{name}, model", make)
    if adapter is None:
        return
    for batch, keys in cells:

        def cell(size=(batch, keys)):
            figures = measure(adapter, shape, found.limits, *size, options.repeats)
            return {"model": name, **figures}

        found.case(f"{name}, {batch} x {keys} keys", cell, least=15)


def main(arguments=None):
    options = results.parser("step", __doc__)
    options.add_argument("--models", nargs="+", choices=list(models.RELEASED), metavar="NAME")
    options = results.parse(options, arguments)
    found = results.Results(options, line)
    with torch.no_grad():
        for name, shape in models.shapes(options.small, options.models).items():
            measure_model(found, name, shape, options)
            gc.collect()
    return found.status


if __name__ == "__main__":
    sys.exit(main())
