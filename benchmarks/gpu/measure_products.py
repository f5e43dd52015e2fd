"""Measurements of skinny products: bfloat16 by torch, fp8, int8 weight-only (`measurements`)."""

import math
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.gpu import models
from benchmarks.gpu.floor import product, projections
from benchmarks.gpu.measure_kernels import tried
from benchmarks.gpu.timing import per_call

ROTATED, WORK = 200e6, 1.5e9  # bytes of different weights, and of all in one graph
FP8_MAX = 448.0  # largest e4m3


def weights(device, inputs, outputs, least):
    """bfloat16 ``[outputs, inputs]``, so many that they are larger than any L2 together."""
    count = max(2, math.ceil(least / (2 * inputs * outputs)))
    scale = inputs**-0.5
    return [
        torch.randn(outputs, inputs, device=device, dtype=torch.bfloat16).mul_(scale)
        for _ in range(count)
    ]


def rotated(function, many, device, repeats, work):
    """Seconds of a call of `function` with one of `many`, taking turns in a graph."""
    size = many[0][0].nbytes if isinstance(many[0], tuple) else many[0].nbytes
    turns = max(len(many), math.ceil(work / size))
    calls = [partial(function, many[turn % len(many)]) for turn in range(turns)]
    return per_call(calls, device, repeats)


def skinny(found, small, repeats):
    """2: `F.linear` at M rows for the five products of both models."""
    rotate, work = (0, 0) if small else (ROTATED, WORK)
    for rows in (32, 96, 128):
        for model, shape in models.shapes(small).items():
            for name, (inputs, outputs) in projections(shape).items():

                def one(rows=rows, model=model, name=name, size=(inputs, outputs)):
                    many = weights(found.device, *size, rotate)
                    x = torch.randn(rows, size[0], device=found.device, dtype=torch.bfloat16)
                    call = lambda w: F.linear(x, w)  # noqa: E731
                    times = [rotated(call, many, found.device, repeats, work) for _ in range(2)]
                    moved = product(rows, *size)[0]
                    return {
                        "model": model,
                        "product": name,
                        "rows": rows,
                        "bytes": moved,
                        "seconds": times[0],
                        "again": times[1],
                        "share_of_bandwidth": moved / found.limits.bandwidth / times[0],
                    }

                found.case(f"F.linear, {model} {name}, {rows} rows", one, least=3)


def eight_bit(x, many):
    """Name -> (function of one weight's parts, the parts of each weight)."""
    scales = [w.abs().amax(1, keepdim=True).float() for w in many]
    high = [
        ((w / (s / FP8_MAX)).to(torch.float8_e4m3fn), (s / FP8_MAX).t().contiguous())
        for w, s in zip(many, scales, strict=True)
    ]
    whole = [
        ((w / (s / 127)).round().to(torch.int8), (s[:, 0] / 127).to(w.dtype))
        for w, s in zip(many, scales, strict=True)
    ]

    def narrow():
        scale = x.abs().amax(1, keepdim=True).float() / FP8_MAX
        return (x / scale).to(torch.float8_e4m3fn), scale

    ready = narrow()

    def scaled(part, rows):
        values, scale = rows
        options = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
        return torch._scaled_mm(values, part[0].t(), scale_a=scale, scale_b=part[1], **options)

    return {
        "fp8 _scaled_mm, rows given in fp8": (lambda part: scaled(part, ready), high),
        "fp8 _scaled_mm, rows narrowed in eager steps": (lambda part: scaled(part, narrow()), high),
        "int8 weight-only, _weight_int8pack_mm": (
            lambda part: torch._weight_int8pack_mm(x, *part),
            whole,
        ),
        "int8 weight-only, widened and multiplied": (
            lambda part: F.linear(x, part[0].to(x.dtype)) * part[1],
            whole,
        ),
    }


def narrow_times(device, size, repeats, rows, rotate, work):
    """Seconds of every kind for one product, or why it is not available."""
    many = weights(device, *size, 2 * rotate)  # 8-bit copies are half as large
    x = torch.randn(rows, size[0], device=device, dtype=torch.bfloat16)
    wanted = F.linear(x, many[0])
    times = {"bf16": rotated(lambda w: F.linear(x, w), many, device, repeats, work)}
    missing = {}

    def timed(function, parts):
        error = (function(parts[0]).float() - wanted.float()).abs().max() / wanted.abs().max()
        if not error <= 0.1:
            raise RuntimeError(f"error {error:.2g} of the largest value")
        return {"seconds": rotated(function, parts, device, repeats, work / 2)}

    for kind, (function, parts) in eight_bit(x, many).items():
        found = tried(timed, function, parts)
        if "seconds" in found:
            times[kind] = found["seconds"]
        else:
            missing[kind] = found["unavailable"]
    return {"seconds": times, "unavailable": missing}


def narrow(found, small, repeats):
    """7: 8-bit weights against bfloat16 at 32 rows, the four products of a layer."""
    rotate, work = (0, 0) if small else (ROTATED, WORK)
    for model, shape in models.shapes(small).items():
        for name, size in list(projections(shape).items())[:4]:

            def one(model=model, name=name, size=size, layers=shape["n_layers"]):
                figures = narrow_times(found.device, size, repeats, 32, rotate, work)
                return {"model": model, "product": name, "layers": layers, **figures}

            found.case(f"8-bit weights, {model} {name}, 32 rows", one, least=5)
