"""Twins of the operators of a routed MLP."""

import torch
from torch.nn import functional as F


def _ranked(scores):
    """Indices of each row's scores, the best first, ties to the lowest; NaN before everything."""
    return scores.argsort(dim=-1, descending=True, stable=True)


def route(logits, bias, top_k, score, normalise, groups, top_groups, scaling):
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


def grouped_linear(x, weight, offsets):
    """Twin of `dpad.ops.grouped_linear`: torch's grouped product, which wants aligned rows."""
    strides = (x.stride(0), *weight.stride()[:2])
    if all(stride * x.element_size() % 16 == 0 for stride in strides):
        return F.grouped_mm(x, weight.transpose(1, 2), offs=offsets)
    out, begin = x.new_empty(x.shape[0], weight.shape[1]), 0
    for matrix, end in zip(weight, offsets.tolist(), strict=True):
        out[begin:end], begin = F.linear(x[begin:end], matrix), end
    return out


def combine(y, order, weight, full_precision, round_weights):
    """Twin of `dpad.ops.combine`."""
    places = torch.arange(order.shape[0], device=order.device)
    place = torch.empty_like(order).scatter_(0, order, places).view(weight.shape)
    dtype = torch.float32 if full_precision else y.dtype
    if not full_precision:  # experts in ascending order
        place, k = place.sort(-1)
        weight = weight.gather(1, k)
        weight = weight.to(dtype).float() if round_weights else weight
    out = torch.zeros(weight.shape[0], y.shape[1], dtype=dtype, device=y.device)
    for k in range(weight.shape[1]):
        out = out + (y[place[:, k]].float() * weight[:, k, None]).to(dtype)
    return out.to(y.dtype)
