"""Other operators of a forward against torch."""

from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.cases.case import Case, against_torch, drawn, short, size_of
from dpad import ops
from dpad.ops import reference


def norm(device, rows, width):
    args = drawn("add_rms_norm_", device, rows=rows, width=width)
    residual, delta, weight, eps = args.values()
    delta.zero_()  # the call is repeated
    stock = lambda: F.rms_norm(residual.add_(delta), (width,), weight, eps)  # noqa: E731
    return against_torch("add_rms_norm_", f"{rows} x {width}", args, stock)


def swiglu(device, rows, width):
    args = drawn("swiglu", device, rows=rows, width=width)
    stock = partial(reference.swiglu, **args)
    return against_torch("swiglu", f"{rows} x {width}", args, stock)


def linear(device, rows, depth, width, dtype=torch.float32):
    """The rows of a cached step by one weight."""
    sizes = {"rows": rows, "in_features": depth, "out_features": width}
    x, weight, _ = drawn("linear", device, dtype, **sizes, bias=False).values()
    return Case(
        f"linear {rows} rows x {depth} x {width} {short(dtype)}",
        {"dpad": lambda: ops.linear(x, weight), "torch": lambda: F.linear(x, weight)},
        lambda: F.linear(x.double(), weight.double()),
        "torch",
        size_of(x, weight) + rows * width * dtype.itemsize,
        2 * rows * depth * width,
    )


def rope(device, rows, heads, kv_heads, dim=128, capacity=1152):
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "turned": dim // 2}
    sizes |= {"counts": (rows,), "positions": capacity, "capacity": capacity, "gap": 0}
    args = drawn("rope_kv_write_", device, **sizes, padding=False)
    position = torch.arange(capacity - rows, capacity, device=device)
    args |= dict.fromkeys(("q_position", "position", "slot"), position)
    q, k, v, k_cache, v_cache = (args[name] for name in ("q", "k", "v", "k_cache", "v_cache"))

    def turned(x):
        low, high = x.float().chunk(2, -1)
        c, s = args["cos"][position, None], args["sin"][position, None]
        return torch.cat((low * c - high * s, high * c + low * s), -1).to(x.dtype)

    def stock():
        k_cache[:, position] = turned(k).transpose(0, 1)
        v_cache[:, position] = v.transpose(0, 1)
        return turned(q), k_cache.clone()

    return Case(
        f"rope_kv_write_ {rows} rows, {heads}/{kv_heads} heads, with a copy of K",
        {"dpad": lambda: (ops.rope_kv_write_(**args), k_cache.clone()), "torch": stock},
        lambda: (reference.rope_kv_write_(**args), k_cache.clone()),
        0.0,
        2 * size_of(q, k, v, k_cache),
    )


def gather(device, batch, rows, length):
    sizes = {"counts": (rows,) * batch, "canvas_rows": batch, "length": length, "hidden": False}
    args = drawn("suffix_gather", device, **sizes)
    args["position"] = torch.arange(length - rows, length, device=device).repeat(batch)
    row_of = args["canvas_row"].repeat_interleave(rows)
    stock = lambda: args["canvas"][row_of, args["position"]]  # noqa: E731
    name, size = f"{batch} x {rows} rows", 24 * batch * rows
    return against_torch("suffix_gather", name, args, stock, 0, size)
