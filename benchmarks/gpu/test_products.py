"""Times products of few rows: bfloat16 by torch, 8-bit weights of several kinds."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.gpu.floor import product, projections
from benchmarks.random_models import TINY
from benchmarks.timing import per_call, tried
from dpad import ops

measured = pytest.mark.measured
REPEATS = 30
ROTATED, WORK = 200e6, 1.5e9  # bytes of different weights, and of all in one graph
FP8_MAX = 448.0  # largest e4m3
NAMES = list(projections(TINY["tiny"]))
EVERY = [(rows, name) for rows in (32, 96, 128) for name in NAMES]
LAYER = [(32, name) for name in NAMES[:4]]


def weights(device, inputs, outputs, least):
    """bfloat16 ``[outputs, inputs]``, so many that they are larger than any L2 together."""
    count = max(2, math.ceil(least / (2 * inputs * outputs)))
    new = {"device": device, "dtype": torch.bfloat16}
    return [torch.randn(outputs, inputs, **new).mul_(inputs**-0.5) for _ in range(count)]


@pytest.fixture
def drawn(figures, shape, name, rows):
    """Rows ``[rows, inputs]``, weights and the bytes of a graph's calls."""
    size, rotate, work = projections(shape)[name], *((0, 0) if figures.small else (ROTATED, WORK))
    x = torch.randn(rows, size[0], device=figures.device, dtype=torch.bfloat16)
    return x, weights(figures.device, *size, 2 * rotate), work  # 8-bit copies are half as large


@measured("F.linear, {model} {name}, {rows} rows", "rows, name", EVERY, EVERY, least=3)
def test_linear(record, drawn, limits, repeats, rows):
    """Expectation 2: `F.linear` in a graph."""
    x, many, work = drawn
    call = lambda w: F.linear(x, w)  # noqa: E731
    for name in ("seconds", "again"):
        record[name] = per_call(call, many, x.device, repeats, work)
    record["bytes"] = product(rows, *many[0].shape)[0]
    record["share_of_bandwidth"] = record["bytes"] / limits.bandwidth / record["seconds"]


def eight_bit(x, many):
    """Name -> (function of one weight's parts, the parts of each weight)."""

    def fp8(w):
        """Values, and a scale for each row."""
        scale = w.abs().amax(1, keepdim=True).float() / FP8_MAX
        return (w / scale).to(torch.float8_e4m3fn), scale

    def int8(w, dtype):
        scale = w.abs().amax(1, keepdim=True).float() / 127
        return (w / scale).round().to(torch.int8), scale[:, 0].to(dtype)

    def scaled(part, rows):
        scales = {"scale_a": rows[1], "scale_b": part[1].t()}
        how = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
        return torch._scaled_mm(rows[0], part[0].t(), **scales, **how)

    ready, high = fp8(x), [fp8(w) for w in many]
    whole, exact = ([int8(w, dtype) for w in many] for dtype in (x.dtype, torch.float32))
    packed = lambda part: torch._weight_int8pack_mm(x, *part)  # noqa: E731
    widened = lambda part: F.linear(x, part[0].to(x.dtype)) * part[1]  # noqa: E731
    return {
        "fp8 _scaled_mm, rows given in fp8": (lambda part: scaled(part, ready), high),
        "fp8 _scaled_mm, rows narrowed in eager steps": (lambda part: scaled(part, fp8(x)), high),
        "int8 weight-only, _weight_int8pack_mm": (packed, whole),
        "int8 weight-only, widened and multiplied": (widened, whole),
        "int8, dpad's int8_linear": (lambda part: ops.int8_linear(x, *part), exact),
    }


@measured("8-bit weights, {model} {name}, {rows} rows", "rows, name", LAYER, LAYER)
def test_narrow(record, drawn, repeats, rows):
    """Expectation 7: 8-bit weights against bfloat16, the four products of a layer."""
    x, many, work = drawn
    wanted = F.linear(x, many[0])
    times = {"bf16": per_call(lambda w: F.linear(x, w), many, x.device, repeats, work)}

    def timed(function, parts):
        error = (function(parts[0]).float() - wanted.float()).abs().max() / wanted.abs().max()
        if not error <= 0.1:
            raise RuntimeError(f"error {error:.2g} of the largest value")
        return {"seconds": per_call(function, parts, x.device, repeats, work / 2)}

    record |= {"seconds": times, "unavailable": (missing := {})}
    for kind, (function, parts) in eight_bit(x, many).items():
        found = tried(timed, function, parts)
        if "seconds" in found:
            times[kind] = found["seconds"]
        else:
            missing[kind] = found["unavailable"]
