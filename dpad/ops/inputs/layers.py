"""Inputs of the operators of `dpad.ops.layers`."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from dpad.ops.inputs.values import MASK_ID, Arguments, normal, offsets


def suffix_gather(
    g: torch.Generator,
    dtype: torch.dtype,
    counts: Sequence[int] = (3, 2),
    canvas_rows: int = 3,
    length: int = 12,
    hidden: bool = True,
) -> Arguments:
    rows, batch = sum(counts), len(counts)
    until = torch.randint(0, length + 1, (batch,), generator=g)
    return {
        "canvas": torch.randint(0, 999, (canvas_rows, length), generator=g),
        "canvas_row": torch.randperm(canvas_rows, generator=g)[:batch],
        "q_offsets": offsets(counts),
        "position": torch.randint(0, length, (rows,), generator=g),
        "hidden_until": until if hidden else None,
        "mask_id": MASK_ID,
    }


def _ranges(g: torch.Generator, lengths: Sequence[int], gap: int) -> tuple[Tensor, int]:
    """Starts of ranges of the arena that do not overlap, in random order, and the slots of all."""
    starts, end = [0] * len(lengths), gap
    for b in torch.randperm(len(lengths), generator=g).tolist():
        starts[b], end = end, end + lengths[b] + gap
    return torch.tensor(starts, dtype=torch.int64), end


def rope_kv_write_(
    g: torch.Generator, dtype: torch.dtype, counts: Sequence[int] = (3, 2),
    q_rows: int | None = None, heads: int = 4, kv_heads: int = 2, head_dim: int = 8,
    turned: int = 4, positions: int = 16, capacity: int = 6, gap: int = 1, padding: bool = True,
    full_precision: bool = True,
) -> Arguments:  # fmt: skip
    """`capacity` slots for each sequence; with `padding` about one row in eight has no slot."""
    rows, q_rows = sum(counts), sum(counts) if q_rows is None else q_rows
    draw = partial(normal, g, dtype)
    angle = torch.rand(positions, turned, generator=g) * 6
    slots_of = [torch.randperm(capacity, generator=g)[:count] for count in counts]
    slot = torch.cat([torch.empty(0, dtype=torch.int64), *slots_of])
    if padding:
        slot = slot.masked_fill(torch.rand(rows, generator=g) < 0.125, -1)
    kv_start, slots = _ranges(g, [capacity] * len(counts), gap)
    return {
        "q": draw(q_rows, heads, head_dim),
        "k": draw(rows, kv_heads, head_dim),
        "v": draw(rows, kv_heads, head_dim),
        "q_position": torch.randint(0, positions, (q_rows,), generator=g),
        "position": torch.randint(0, positions, (rows,), generator=g),
        "slot": slot,
        "q_offsets": offsets(counts),
        "kv_start": kv_start,
        "cos": angle.cos(),
        "sin": angle.sin(),
        "k_cache": draw(kv_heads, slots, head_dim),
        "v_cache": draw(kv_heads, slots, head_dim),
        "full_precision": full_precision,
    }


def block_attention(
    g: torch.Generator, dtype: torch.dtype, counts: Sequence[int] = (3, 2),
    keys: Sequence[int] = (6, 4), heads: int = 4, kv_heads: int = 2, head_dim: int = 8,
    gap: int = 1, mask: bool = True, limit: bool = True, unread: float | None = None,
) -> Arguments:  # fmt: skip
    """`unread` is what slots that no row may look at hold; by default they are like the others."""
    rows, (kv_start, slots) = sum(counts), _ranges(g, keys, gap)
    draw = partial(normal, g, dtype)
    key_mask = torch.rand(slots, generator=g) < 0.8
    least = [torch.randint(-1, n + 3, (c,), generator=g) for c, n in zip(counts, keys, strict=True)]
    key_limit = torch.cat([torch.empty(0, dtype=torch.int64), *least])
    caches = [draw(kv_heads, slots, head_dim) for _ in range(2)]
    if unread is not None:
        seen = torch.zeros(slots, dtype=torch.bool)
        for start, n, count, limits in zip(kv_start.tolist(), keys, counts, least, strict=True):
            most = min(n, int(limits.max())) if limit and count else n if count else 0
            seen[start : start + max(most, 0)] = True
        seen = seen & key_mask if mask else seen
        caches = [torch.where(seen[:, None], c, unread).to(dtype) for c in caches]
    return {
        "q": draw(rows, heads, head_dim),
        "k_cache": caches[0],
        "v_cache": caches[1],
        "q_offsets": offsets(counts),
        "kv_start": kv_start,
        "n_keys": torch.tensor(keys, dtype=torch.int64),
        "scale": max(head_dim, 1) ** -0.5,
        "key_mask": key_mask if mask else None,
        "key_limit": key_limit if limit else None,
    }


def add_rms_norm_(
    g: torch.Generator, dtype: torch.dtype, rows: int = 5, width: int = 33, delta: bool = True
) -> Arguments:
    draw = partial(normal, g, dtype)
    added = draw(rows, width) if delta else None
    return {"residual": draw(rows, width), "delta": added, "weight": draw(width), "eps": 1e-5}


def swiglu(g: torch.Generator, dtype: torch.dtype, rows: int = 5, width: int = 33) -> Arguments:
    return {k: torch.randn(rows, width, generator=g).to(dtype) for k in ("gate", "up")}


def linear(
    g: torch.Generator,
    dtype: torch.dtype,
    rows: int = 5,
    in_features: int = 33,
    out_features: int = 21,
    bias: bool = True,
) -> Arguments:
    draw = partial(normal, g, dtype)
    added = draw(out_features) if bias else None
    return {"x": draw(rows, in_features), "weight": draw(out_features, in_features), "bias": added}


def int8_linear(
    g: torch.Generator, dtype: torch.dtype, rows: int = 5, in_features: int = 33,
    out_features: int = 21, bias: bool = True, smoothing: bool = True,
) -> Arguments:  # fmt: skip
    draw = partial(normal, g, dtype)
    size = out_features, in_features
    return {
        "x": draw(rows, in_features),
        "weight": torch.randint(-127, 128, size, generator=g, dtype=torch.int8),
        "scale": torch.rand(out_features, generator=g),
        "bias": draw(out_features) if bias else None,
        "smoothing": torch.rand(in_features, generator=g) + 0.5 if smoothing else None,
    }
