"""Inputs of the operators of `dpad.ops.routing`."""

from collections.abc import Sequence
from functools import partial

import torch

from dpad.ops.inputs.values import Arguments, normal, offsets


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
    draw = partial(normal, g, dtype)
    args = {
        "x": draw(sum(counts), in_features),
        "weight": draw(len(counts), out_features, in_features),
    }
    return {**args, "offsets": offsets(counts)[1:].int()}


def grouped_swiglu(
    g: torch.Generator,
    dtype: torch.dtype,
    counts: Sequence[int] = (2, 0, 3),
    rows: int = 4,
    in_features: int = 16,
    ffn: int = 7,
) -> Arguments:
    """`counts` are places of each expert."""
    draw = partial(normal, g, dtype)
    weight = {name: draw(len(counts), ffn, in_features) for name in ("gate", "up")}
    row = torch.randint(0, rows, (sum(counts),), generator=g)
    ends = offsets(counts)[1:].int()
    return {"x": draw(rows, in_features), "row": row, **weight, "offsets": ends}


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
