"""Nucleus and top-k filters on logit rows."""

import torch


def filter_logits(
    logits: torch.Tensor,
    scale: torch.Tensor,
    top_p: torch.Tensor | None = None,
    top_k: torch.Tensor | None = None,
    suppress: torch.Tensor | None = None,
    most_k: int | None = None,
    top_k_first: bool = False,
    within: bool = False,
) -> torch.Tensor:
    """Logits / scale with everything outside the nucleus and the k best at -inf.

    The order is Dream's (arXiv 2508.15487): temperature, top-p, top-k. The nucleus holds the most
    probable ids up to the one that passes `top_p`; ties with the k-th best stay.

    Args:
        logits: ``[rows, vocab]``; the best id outside `suppress` always stays.
        scale: ``[rows, 1]``, the temperature; 1 leaves the logits as they are.
        top_p: ``[rows, 1]`` in (0, 1], or None; top_k: int64 ``[rows, 1]``, at least 1, or None.
        most_k: a number that no `top_k` exceeds, as they are not read; None: the vocabulary.
        suppress: int64 ids that are never chosen, or that no score counts.
        top_k_first: the nucleus is that of the k best, as in Transformers.
        within: the nucleus is the largest within `top_p`, and at least one id (MDLM).

    Returns:
        ``[rows, vocab]`` in the dtype of the logits, in float32 below that.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    scale = scale.to(wide.dtype)
    wide = wide / scale
    if top_k is not None and top_k_first:
        wide = _best(wide, top_k, most_k)
    if top_p is not None:
        wide = _nucleus(wide, top_p, within)
    if top_k is not None and not top_k_first:
        wide = _best(wide, top_k, most_k)
    if suppress is not None and suppress.numel() and (top_p is not None or top_k is not None):
        wide = _keep_best_allowed(wide, logits, scale, suppress)
    return wide


def _nucleus(wide: torch.Tensor, top_p: torch.Tensor, within: bool) -> torch.Tensor:
    ordered, ids = wide.sort(dim=-1, descending=True)
    mass = ordered.softmax(-1).cumsum(-1)
    mass = mass[:, 1:] if within else mass[:, :-1]
    outside = torch.zeros_like(ordered, dtype=torch.bool)
    outside[:, 1:] = (mass > top_p.to(wide.dtype)) & (top_p < 1)
    keep = torch.empty_like(outside).scatter_(-1, ids, ~outside)
    return wide.masked_fill(~keep, -torch.inf)


def _best(wide: torch.Tensor, top_k: torch.Tensor, most_k: int | None) -> torch.Tensor:
    most_k = min(most_k or wide.shape[-1], wide.shape[-1])
    lowest = wide.topk(most_k, dim=-1).values.gather(-1, top_k.clamp(max=most_k) - 1)
    return wide.masked_fill(wide < lowest, -torch.inf)


def _keep_best_allowed(
    filtered: torch.Tensor, logits: torch.Tensor, scale: torch.Tensor, suppress: torch.Tensor
) -> torch.Tensor:
    """Where only suppressed ids are left, the best other one comes back."""
    allowed = logits.index_fill(-1, suppress, -torch.inf)
    best = allowed.argmax(-1, keepdim=True)
    lost = filtered.index_fill(-1, suppress, -torch.inf).amax(-1, keepdim=True) == -torch.inf
    value = logits.gather(-1, best).to(filtered.dtype) / scale
    return filtered.scatter(-1, best, torch.where(lost, value, filtered.gather(-1, best)))
