"""Inputs of every operator, made to size: for `dpad.doctor`, the tests and the benchmarks.

`make` gives the arguments of a valid call by name, in the order of the schema. Sizes are options;
values come from a generator. Counts are rows of each sequence.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

MASK_ID = 7
Arguments = dict[str, Any]


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def offsets(counts: Sequence[int]) -> Tensor:
    """[0, c0, c0 + c1, ...], int64."""
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def _normal(g: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g).to(dtype)


def _one(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=g))


def suffix_table(
    g: torch.Generator, dtype: torch.dtype, kind: str = "gaussian", grid: str = "repo",
    window: int = 16, decay: float = 3.0, scale: float = 1.6, count: float = 0.0, near: int = 2,
    length: int = 20,
) -> Arguments:  # fmt: skip
    table = {"kind": kind, "grid": grid, "window": window, "decay": decay, "scale": scale}
    return {**table, "count": count, "near": near, "length": length}


def transfer_schedule(
    g: torch.Generator, dtype: torch.dtype, masks: int = 32, steps: int = 5
) -> Arguments:
    return {"masks": masks, "steps": steps}


def suffix_sample(
    g: torch.Generator,
    dtype: torch.dtype,
    left: Sequence[int] = (40, 4),
    length: int = 40,
    keep_last: bool = True,
    **table: Any,
) -> Arguments:
    """`left`: suffix positions of each sequence."""
    batch, end = len(left), torch.randint(0, 99, (len(left),), generator=g)
    far = partial(torch.randint, -(2**62), 2**62, (batch,), generator=g)
    keys = {
        "seed": far(),
        "row_key": far(),
        "block": torch.randint(0, 9, (batch,), generator=g),
        "redraw": torch.randint(0, 4, (batch,), generator=g),
        "end": end,
        "total": end + torch.tensor(left, dtype=torch.int64),
    }
    table = suffix_table(g, dtype, **table)
    del table["length"]
    return {**keys, **table, "keep_last": keep_last, "length": length}


def plan_pass(
    g: torch.Generator,
    dtype: torch.dtype,
    blocks: Sequence[tuple[int, int]] = ((3, 6), (0, 2)),
    kept: Sequence[int] = (2, 1),
    scope: Sequence[int] = (1, 0),
    shift: int = 1,
    block_length: int = 4,
) -> Arguments:
    """`blocks`: (start, end) of each sequence; `kept`: kept positions behind it."""
    positions = [
        end + torch.randperm(2 * count + 3, generator=g)[:count].sort().values
        for (_, end), count in zip(blocks, kept, strict=True)
    ]
    start, end = torch.tensor(blocks, dtype=torch.int64).view(-1, 2).unbind(1)
    first = torch.tensor([_one(g, 0, s) for s, _ in blocks], dtype=torch.int64)
    joins = torch.tensor([_one(g, 0, 1) for _ in blocks], dtype=torch.int64)
    before = (start - shift * joins).clamp(min=0)
    lowest = first.where(torch.tensor(scope) == 0, before).minimum(before).tolist()
    return {
        "start": start.clone(),
        "end": end.clone(),
        "kept": torch.cat([ints(), *positions]),
        "kept_count": torch.tensor(kept, dtype=torch.int64),
        "scope": torch.tensor(scope, dtype=torch.int64),
        "first": first,
        "first_target": torch.tensor([_one(g, s, e) for s, e in blocks], dtype=torch.int64),
        "unseen": torch.tensor([_one(g, 0, n) for n in lowest], dtype=torch.int64),
        "predecessor": joins,
        "shift": shift,
        "block_length": block_length,
    }


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
    draw = partial(_normal, g, dtype)
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
    draw = partial(_normal, g, dtype)
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
    draw = partial(_normal, g, dtype)
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
    draw = partial(_normal, g, dtype)
    added = draw(out_features) if bias else None
    return {"x": draw(rows, in_features), "weight": draw(out_features, in_features), "bias": added}


def int8_linear(
    g: torch.Generator, dtype: torch.dtype, rows: int = 5, in_features: int = 33,
    out_features: int = 21, bias: bool = True, smoothing: bool = True,
) -> Arguments:  # fmt: skip
    draw = partial(_normal, g, dtype)
    size = out_features, in_features
    return {
        "x": draw(rows, in_features),
        "weight": torch.randint(-127, 128, size, generator=g, dtype=torch.int8),
        "scale": torch.rand(out_features, generator=g),
        "bias": draw(out_features) if bias else None,
        "smoothing": torch.rand(in_features, generator=g) + 0.5 if smoothing else None,
    }


def route(
    g: torch.Generator, dtype: torch.dtype, rows: int = 5, experts: int = 12, top_k: int = 3,
    score: str = "sigmoid", normalise: bool = True, groups: int = 4, top_groups: int = 2,
    bias: bool = True, scaling: float = 2.5,
) -> Arguments:  # fmt: skip
    """Logits are multiples of 1/4: ties are exact, and nothing else is near to one."""
    logits = 0.25 * torch.randint(-16, 17, (rows, experts), generator=g)
    added = 0.1 * torch.randn(experts, generator=g) if bias else None
    choice = {"top_k": top_k, "score": score, "normalise": normalise, "groups": groups}
    rest = {"top_groups": top_groups, "scaling": scaling}
    return {"logits": logits.to(dtype), "bias": added, **choice, **rest}


def grouped_linear(
    g: torch.Generator,
    dtype: torch.dtype,
    counts: Sequence[int] = (2, 0, 3),
    in_features: int = 16,
    out_features: int = 7,
) -> Arguments:
    """`counts` are rows of each expert."""
    draw = partial(_normal, g, dtype)
    args = {
        "x": draw(sum(counts), in_features),
        "weight": draw(len(counts), out_features, in_features),
    }
    return {**args, "offsets": offsets(counts)[1:].int()}


def combine(
    g: torch.Generator,
    dtype: torch.dtype,
    rows: int = 3,
    top_k: int = 2,
    width: int = 33,
    full_precision: bool = False,
    round_weights: bool = True,
) -> Arguments:
    return {
        "y": torch.randn(rows * top_k, width, generator=g).to(dtype),
        "order": torch.randperm(rows * top_k, generator=g),
        "weight": torch.rand(rows, top_k, generator=g),
        "full_precision": full_precision,
        "round_weights": round_weights,
    }


def uniform(g: torch.Generator, dtype: torch.dtype, counts: Sequence[int] = (3, 2)) -> Arguments:
    return {
        "rng": torch.randint(-(2**62), 2**62, (len(counts), 3), generator=g),
        "l_offsets": offsets(counts),
        "position": torch.randint(0, 2**40, (sum(counts),), generator=g),
    }


def confidence(
    g: torch.Generator, dtype: torch.dtype, counts: Sequence[int] = (3, 2), vocab: int = 67,
    temperature: Sequence[float] = (0.0, 0.7), suppress: int = 1, exclude: int = 2,
    noise: bool = False, round_to_dtype: bool = False,
) -> Arguments:  # fmt: skip
    """`suppress` and `exclude` are numbers of ids; `noise`: supplied, not drawn by the operator."""
    rows, draws = sum(counts), uniform(g, dtype, counts)
    drawn = torch.rand(rows, vocab, generator=g, dtype=torch.float64)
    return {
        "logits": (3 * torch.randn(rows, vocab, generator=g)).to(dtype),
        "l_offsets": draws["l_offsets"],
        "position": draws["position"],
        "rng": draws["rng"],
        "temperature": torch.tensor(temperature, dtype=torch.float64),
        "suppress": torch.randperm(vocab, generator=g)[: min(suppress, vocab - 1)],
        "exclude": torch.randperm(vocab, generator=g)[: min(exclude, vocab - 1)],
        "noise": -torch.log(-torch.log(drawn)) if noise else None,
        "round_to_dtype": round_to_dtype,
    }


def unmask_(
    g: torch.Generator, dtype: torch.dtype, counts: Sequence[int] = (3, 2), canvas_rows: int = 3,
    length: int = 12, vocab: int = 100, rule: int = 0, rule_value: float = 0.5, quota: int = 2,
    early_stop: bool = True,
) -> Arguments:  # fmt: skip
    """Each sequence commits in a block of neighbours; about half of the canvas is masked."""
    batch, rows = len(counts), sum(counts)
    canvas = torch.randint(MASK_ID + 1, vocab, (canvas_rows, length), generator=g)
    masked = torch.rand(canvas_rows, length, generator=g) < 0.5
    starts = [int(torch.randint(0, length - c + 1, (), generator=g)) for c in counts]
    blocks = [torch.arange(s, s + c) for s, c in zip(starts, counts, strict=True)]
    position = torch.cat([torch.empty(0, dtype=torch.int64), *blocks])
    score = torch.rand(rows, generator=g, dtype=torch.float64)
    return {
        "canvas": canvas.masked_fill(masked, MASK_ID),
        "committed_at": torch.full((canvas_rows, length), -1),
        "committed": torch.zeros(canvas_rows, length, dtype=torch.float64),
        "masks_left": torch.randint(0, 9, (canvas_rows,), generator=g),
        "status": torch.zeros(canvas_rows, dtype=torch.int64),
        "forward": torch.randint(0, 9, (canvas_rows,), generator=g),
        "canvas_row": torch.randperm(canvas_rows, generator=g)[:batch],
        "l_offsets": offsets(counts),
        "position": position,
        "token": torch.randint(MASK_ID + 1, vocab, (rows,), generator=g),
        "score": score,
        "probability": score.flip(0),
        "rule_value": torch.full((batch,), rule_value, dtype=torch.float64),
        "quota": torch.full((batch,), quota, dtype=torch.int64),
        "length": torch.tensor(
            [max(length - 2, s + c) for s, c in zip(starts, counts, strict=True)]
        )
        .long()
        .clamp(max=length),
        "end_ids": torch.randperm(vocab, generator=g)[:5],
        "rule": rule,
        "early_stop": early_stop,
        "mask_id": MASK_ID,
        "fill_id": MASK_ID + 1,
    }


_MAKERS = {
    f.__name__: f
    for f in (
        suffix_table,
        transfer_schedule,
        suffix_sample,
        plan_pass,
        suffix_gather,
        rope_kv_write_,
        block_attention,
        add_rms_norm_,
        swiglu,
        linear,
        int8_linear,
        route,
        grouped_linear,
        combine,
        confidence,
        uniform,
        unmask_,
    )
}
NAMES = tuple(_MAKERS)
# Arguments that are written.
WRITTEN = {
    "rope_kv_write_": ("k_cache", "v_cache"),
    "add_rms_norm_": ("residual",),
    "unmask_": ("canvas", "committed_at", "committed", "masks_left", "status", "forward"),
}
# Operators that sum or round in another order than their twins; the others give the same bits.
ROUNDED = (
    *("block_attention", "add_rms_norm_", "swiglu", "linear", "route", "grouped_linear"),
    "confidence",
)


def make(
    name: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    /,
    device: torch.device | str = "cpu",
    **sizes: Any,
) -> Arguments:
    """Arguments of a valid call of operator `name`, the same ones for the same seed and sizes."""
    with torch.device(device):
        return _MAKERS[name](torch.Generator(device).manual_seed(seed), dtype, **sizes)
