"""Plain-torch `route`, `grouped_linear` and `combine`, the operators around a routed MLP."""

import torch
from torch.nn import functional as F


def _ranked(scores):
    """Indices of each row's scores, the best first, ties to the lowest."""
    return scores.argsort(dim=-1, descending=True, stable=True)


def route(logits, bias, top_k, score, normalise, groups, top_groups, scaling):
    """The experts of each row, and the pairs of rows and experts sorted by expert.

    Args:
        logits: ``[rows, experts]``; bias: float32 ``[experts]`` or None, added to what chooses and
            not to the weights.
        score: "softmax" or "sigmoid", in float32.
        normalise: divide the weights of a row by their sum.
        groups, top_groups: experts are chosen from the best groups, by their two best scores
            (DeepSeek-V3, arXiv 2412.19437).

    Returns:
        expert int64 and weight float32 ``[rows, top_k]``; order int64 ``[rows * top_k]``, the pair
        at each place; offsets int32 ``[experts]``, the end of each expert's places.
    """
    logits = logits.float()
    scores = logits.softmax(-1) if score == "softmax" else logits.sigmoid()
    ranked = scores if bias is None else scores + bias
    if groups > 1:
        parts = ranked.unflatten(-1, (groups, -1))
        best = _ranked(parts.topk(2, dim=-1).values.sum(-1))[:, :top_groups]
        allowed = torch.zeros_like(parts[..., 0], dtype=torch.bool).scatter_(1, best, True)
        ranked = parts.masked_fill(~allowed[..., None], float("-inf")).flatten(1)
    expert = _ranked(ranked)[:, :top_k].contiguous()
    weight = scores.gather(1, expert)
    if normalise:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    of_pair, order = expert.flatten().sort(stable=True)
    every = torch.arange(logits.shape[1], device=logits.device)
    return (
        expert,
        weight * scaling,
        order,
        torch.searchsorted(of_pair, every, right=True, out_int32=True),
    )


def grouped_linear(x, weight, offsets):
    """``x weight[e]^T`` for the rows ``[rows, in]`` of each expert e; weight ``[experts, out,
    in]``.
    """
    if all(s * x.element_size() % 16 == 0 for s in (x.stride(0), *weight.stride()[:2])):
        return F.grouped_mm(x, weight.transpose(1, 2), offs=offsets)
    parts = x.tensor_split(offsets[:-1].long().cpu())
    return torch.cat([F.linear(*pair) for pair in zip(parts, weight, strict=True)])


def combine(y, order, weight, full_precision):
    """``[rows, width]``: the experts' results ``[rows * top_k, width]``, weighted and summed, in
    float32 and rounded once, or else in the dtype and from the lowest expert on.
    """
    place = order.argsort().view(weight.shape)
    dtype = torch.float32 if full_precision else y.dtype
    if not full_precision:
        place, k = place.sort(-1)
        weight = weight.gather(1, k)
    weight = weight.to(dtype)
    out = torch.zeros(weight.shape[0], y.shape[1], dtype=dtype, device=y.device)
    for k in range(weight.shape[1]):
        out = out + y[place[:, k]].to(dtype) * weight[:, k, None]
    return out.to(y.dtype)
