"""Inputs of the operators of `dpad.ops.planning`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from dpad.ops.inputs.values import Arguments, ints, one


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
    first = torch.tensor([one(g, 0, s) for s, _ in blocks], dtype=torch.int64)
    joins = torch.tensor([one(g, 0, 1) for _ in blocks], dtype=torch.int64)
    before = (start - shift * joins).clamp(min=0)
    lowest = first.where(torch.tensor(scope) == 0, before).minimum(before).tolist()
    return {
        "start": start.clone(),
        "end": end.clone(),
        "kept": torch.cat([ints(), *positions]),
        "kept_count": torch.tensor(kept, dtype=torch.int64),
        "scope": torch.tensor(scope, dtype=torch.int64),
        "first": first,
        "first_target": torch.tensor([one(g, s, e) for s, e in blocks], dtype=torch.int64),
        "unseen": torch.tensor([one(g, 0, n) for n in lowest], dtype=torch.int64),
        "predecessor": joins,
        "shift": shift,
        "block_length": block_length,
    }
