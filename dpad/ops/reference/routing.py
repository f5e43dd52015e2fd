"""Twins of the operators of a routed MLP."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dpad.ops.reference.layers import swiglu


def _ranked(scores: Tensor) -> Tensor:
    """Indices of each row's scores, the best first, ties to the lowest; NaN before everything."""
    return scores.argsort(dim=-1, descending=True, stable=True)


def route(
    logits: Tensor,
    bias: Tensor | None,
    top_k: int,
    score: str,
    normalise: bool,
    groups: int,
    top_groups: int,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Twin of `dpad.ops.route`."""
    wide, (rows, experts) = logits.float(), logits.shape
    scores = wide.softmax(-1) if score == "softmax" else wide.sigmoid()
    choosing = scores if bias is None else scores + bias
    ranked = _ranked(choosing)
    if groups > 1:
        best = choosing.unflatten(-1, (groups, -1)).topk(2, dim=-1).values.sum(-1)
        allowed = torch.zeros(rows, groups, device=logits.device)
        allowed.scatter_(1, _ranked(best)[:, :top_groups], 1.0)
        allowed = allowed.repeat_interleave(experts // groups, dim=1)
        ranked = ranked.gather(1, _ranked(allowed.gather(1, ranked)))
    expert = ranked[:, :top_k].contiguous()
    weight = scores.gather(1, expert)
    if normalise:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    of_pair, order = expert.flatten().sort(stable=True)
    every = torch.arange(experts, device=logits.device)
    offsets = torch.searchsorted(of_pair, every, right=True, out_int32=True)
    return expert, weight * scaling, order, offsets


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Twin of `dpad.ops.grouped_linear`: torch's grouped product, which wants aligned rows."""
    strides = (x.stride(0), *weight.stride()[:2])
    if all(stride * x.element_size() % 16 == 0 for stride in strides):
        return F.grouped_mm(x, weight.transpose(1, 2), offs=offsets)
    out = x.new_empty(x.shape[0], weight.shape[1])
    ends: list[int] = offsets.tolist()
    for matrix, begin, end in zip(weight, [0, *ends[:-1]], ends, strict=True):
        out[begin:end] = F.linear(x[begin:end], matrix)
    return out


def grouped_swiglu(x: Tensor, row: Tensor, gate: Tensor, up: Tensor, offsets: Tensor) -> Tensor:
    """Twin of `dpad.ops.grouped_swiglu`: two grouped products of the gathered rows."""
    rows = x[row]
    return swiglu(grouped_linear(rows, gate, offsets), grouped_linear(rows, up, offsets))


def combine(
    y: Tensor, order: Tensor, weight: Tensor, full_precision: bool, round_weights: bool
) -> Tensor:
    """Twin of `dpad.ops.combine`."""
    places = torch.arange(order.shape[0], device=order.device)
    place = torch.empty_like(order).scatter_(0, order, places).view(weight.shape)
    dtype = torch.float32 if full_precision else y.dtype
    if not full_precision:  # experts in ascending order
        place, k = place.sort(-1)
        weight = weight.gather(1, k)
        weight = weight.to(dtype).float() if round_weights else weight
    out = torch.zeros(weight.shape[0], y.shape[1], dtype=dtype, device=y.device)
    for column in range(weight.shape[1]):
        out = out + (y[place[:, column]].float() * weight[:, column, None]).to(dtype)
    return out.to(y.dtype)
