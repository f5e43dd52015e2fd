"""What a device can do at most, and the least time of a pass: every tensor moved once, every
product at peak rate.

Per kernel max(bytes / bandwidth, operations / rate), summed over the kernels, which run one after
the other; element-wise kernels count nothing, their operands can stay in the L2 cache.
"""

from typing import NamedTuple

import torch

from benchmarks.timing import Timer

SIZE = 2  # bytes of bfloat16
# Datasheets of the SXM parts: bytes per second, dense bfloat16 operations per second.
DATASHEET = {"H100": (3.35e12, 990e12), "H200": (4.8e12, 990e12)}


class Limits(NamedTuple):
    """What a device can do at most, and who says so."""

    bandwidth: float
    rate: float | None  # None: not known, operations then count nothing
    source: str
    gpu: str | None = None  # name in `DATASHEET`


def limits(name, copied):
    """`Limits` of a device by its name; one without a datasheet here copies so many bytes/s."""
    for gpu, (bandwidth, rate) in DATASHEET.items():
        if gpu in name and not any(other in name for other in ("PCIe", "NVL", "MIG")):
            return Limits(bandwidth, rate, "datasheet", gpu)
    return Limits(copied, None, "measured copy")


def copy_bandwidth(device, size):
    """Bytes per second of a copy within the device, counting those read and those written."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / Timer(device).median(lambda: target.copy_(source), repeats=10)


def product(rows, inputs, outputs):
    """(bytes, operations) of ``[rows, inputs] x [inputs, outputs]``."""
    return SIZE * (inputs * outputs + rows * (inputs + outputs)), 2 * rows * inputs * outputs


def projections(shape):
    """Name -> (inputs, outputs) of a layer's four products, and of the head."""
    d, ff = shape["d_model"], shape["mlp_hidden_size"]
    heads, kv = shape["n_heads"], shape["n_kv_heads"]
    return {
        "qkv": (d, d + 2 * kv * (d // heads)),
        "o": (d, d),
        "gate+up": (d, 2 * ff),
        "down": (ff, d),
        "head": (d, shape["vocab_size"]),
    }


def attention(shape, sequences, rows, keys):
    """(bytes, operations) of one layer: `rows` queries of each sequence over its `keys`."""
    d, kv = shape["d_model"], shape["n_kv_heads"] * shape["d_model"] // shape["n_heads"]
    return SIZE * sequences * 2 * (keys * kv + rows * d), 4 * sequences * rows * keys * d


def pass_floor(shape, limit, groups, logit_rows):
    """Seconds of a pass.

    Args:
        shape: sizes of a model, as in `benchmarks.random_models`.
        limit: `Limits`.
        groups: (sequences, computed rows of each, keys of each), one after the other.
        logit_rows: rows that reach the head, of all sequences.
    """
    rows, layers = sum(n * r for n, r, _ in groups), shape["n_layers"]
    *body, head = projections(shape).values()
    kernels = [(*product(rows, *sizes), layers) for sizes in body]
    kernels += [(*attention(shape, *group), layers) for group in groups]
    kernels.append((*product(logit_rows, *head), 1))
    logits = logit_rows * shape["vocab_size"]
    kernels.append((SIZE * logits, 5 * logits, 1))
    return sum(n * least(limit, moved, done) for moved, done, n in kernels)


def least(limit, moved, done=0):
    """Seconds of a kernel that moves and does so much."""
    return max(moved / limit.bandwidth, done / limit.rate if limit.rate else 0.0)
