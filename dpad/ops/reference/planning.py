"""Twins of the planning operators."""

import math

import torch
from torch import Tensor

from dpad.ops._names import SCOPES
from dpad.ops.reference.philox import philox, stream_key

ALWAYS = 2**32
INV_SQRT_2PI = 0.39894228040143267794


def _gaussian(scale: float, distance: int, window: int, decay: float, grid: str) -> float:
    cells = window - 1 if grid == "repo" else window
    x = decay * distance / cells if cells > 0 else 0.0
    return min(1.0, scale * INV_SQRT_2PI * math.exp(-0.5 * x * x))


def _resolve_scale(window: int, decay: float, scale: float, count: float, grid: str) -> float:
    """The scale at which the whole window is expected to keep `count` positions, by bisection."""
    if scale >= 0:
        return scale
    if count >= window:
        return math.exp(0.5 * decay * decay) / INV_SQRT_2PI * 2  # every probability is clipped to 1

    def expected(a: float) -> float:
        total = 0.0  # added one by one: sum() compensates on Python >= 3.12
        for d in range(window):
            total += _gaussian(a, d, window, decay, grid)
        return total

    low, high = 0.0, 1.0
    while expected(high) < count:
        high *= 2
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if expected(middle) < count else (low, middle)
    return high


def suffix_table(
    kind: str,
    grid: str,
    window: int,
    decay: float,
    scale: float,
    count: float,
    near: int,
    length: int,
) -> Tensor:
    """Twin of `dpad.ops.suffix_table`."""
    if kind == "gaussian":
        scale = _resolve_scale(window, decay, scale, count, grid)

    def probability(d: int) -> float:
        if kind in ("none", "all"):
            return float(kind == "all")
        if d >= window:
            return 0.0
        if kind == "gaussian":
            return _gaussian(scale, d, window, decay, grid)
        return 1.0 if kind == "window" else min(1.0, count / window)

    def threshold(d: int) -> int:
        p = 1.0 if d < near else probability(d)
        return ALWAYS if p >= 1 else math.floor(max(p, 0.0) * ALWAYS)

    return torch.tensor([threshold(d) for d in range(length)], dtype=torch.int64)


def transfer_schedule(masks: int, steps: int) -> Tensor:
    """Twin of `dpad.ops.transfer_schedule`."""
    quota = torch.full((steps,), masks // steps, dtype=torch.int64)
    quota[: masks % steps] += 1
    return quota


def _suffix_words(
    seed: Tensor, row_key: Tensor, block: Tensor, redraw: Tensor, length: int
) -> Tensor:
    """The random word of each (sequence, distance): int64 [batch, length]."""
    batch = row_key.shape[0]
    distance = torch.arange(length)
    counter = (
        (distance >> 2).expand(batch, length),
        (block[:, None] & 0xFFFFFFFF).expand(batch, length),
        (redraw[:, None] & 0xFFFFFFFF).expand(batch, length),
        torch.zeros(batch, length, dtype=torch.int64),
    )
    k0, k1 = stream_key(seed, row_key, "suffix")
    drawn = torch.stack(philox(counter, (k0[:, None], k1[:, None])), dim=-1)
    return drawn.gather(-1, (distance & 3).expand(batch, length)[..., None])[..., 0]


def suffix_sample(
    seed: Tensor,
    row_key: Tensor,
    block: Tensor,
    redraw: Tensor,
    end: Tensor,
    total: Tensor,
    kind: str,
    grid: str,
    window: int,
    decay: float,
    scale: float,
    count: float,
    near: int,
    keep_last: bool,
    length: int,
) -> tuple[Tensor, Tensor]:
    """Twin of `dpad.ops.suffix_sample`."""
    drawn = _suffix_words(seed, row_key, block, redraw, length)
    table = suffix_table(kind, grid, window, decay, scale, count, near, length)
    distance = torch.arange(length)
    kept = torch.full((row_key.shape[0], length), -1, dtype=torch.int64)
    kept_count = torch.zeros(row_key.shape[0], dtype=torch.int64)
    for b, (e, t) in enumerate(zip(end.tolist(), total.tolist(), strict=True)):
        left = t - e
        if kind == "uniform":
            keep = distance < min(left, window)
            if count >= left:
                keep = distance < left
            else:
                order = torch.sort(torch.where(keep, drawn[b], ALWAYS), stable=True).indices
                chosen = order[: min(int(count), left, window)]
                keep = torch.zeros_like(keep)
                keep[chosen] = True
        else:
            keep = drawn[b] < table
        keep = keep | (distance < near)
        if keep_last:
            keep = keep | (distance == left - 1)
        positions = distance[keep & (distance < left)] + e
        kept[b, : positions.numel()] = positions
        kept_count[b] = positions.numel()
    return kept, kept_count


def plan_pass(
    start: Tensor,
    end: Tensor,
    kept: Tensor,
    kept_count: Tensor,
    scope: Tensor,
    first: Tensor,
    first_target: Tensor,
    unseen: Tensor,
    predecessor: Tensor,
    shift: int,
    block_length: int,
) -> tuple[Tensor, ...]:
    """Twin of `dpad.ops.plan_pass`."""
    slots: list[int] = []
    positions: list[int] = []
    logit_rows: list[int] = []
    logit_positions: list[int] = []
    n_keys: list[int] = []
    key_limit: list[int] = []
    q_offsets, l_offsets = [0], [0]
    behind = kept.split(kept_count.tolist())
    for b in range(start.shape[0]):
        s, e, left_out = int(start[b]), int(end[b]), int(unseen[b])
        layout = list(range(e)) + behind[b].tolist()
        low, high = max(s - shift * int(predecessor[b]), 0), len(layout)
        if int(scope[b]) == SCOPES["all"]:
            low = int(first[b]) if first[b] < s else low
        elif int(scope[b]) == SCOPES["block"]:
            high = e
        for i in range(int(first_target[b]), e):
            logit_rows.append(len(slots) + max(i - shift - low, 0))
            logit_positions.append(i)
        slots += range(low - left_out, high - left_out)
        positions += layout[low:high]
        if block_length:
            ends = ((p // block_length + 1) * block_length for p in layout[low:high])
            key_limit += (min(end_of_block, len(layout)) - left_out for end_of_block in ends)
        q_offsets.append(len(slots))
        l_offsets.append(len(logit_rows))
        n_keys.append(len(layout) - left_out)
    rows = [slots, positions, key_limit] if block_length else [slots, positions]
    results = (rows, [logit_rows, logit_positions], [q_offsets, l_offsets], n_keys)
    return tuple(torch.tensor(r, dtype=torch.int64) for r in results)
