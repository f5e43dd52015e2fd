"""Nucleus and top-k filters on logit rows."""

import torch


def filter_logits(logits, temperature, top_p=None, top_k=None, suppress=None):
    """Logits / temperature with everything outside the nucleus and the k best at -inf.

    The order is Dream's (arXiv 2508.15487): temperature, top-p, top-k. The nucleus holds the most
    probable ids up to the one that passes `top_p`; ties with the k-th best stay.

    Args:
        logits: ``[rows, vocab]``; the best id outside `suppress` always stays.
        temperature: float; 0 leaves the logits as they are.
        top_p: in (0, 1], or None; top_k: at least 1, or None.
        suppress: int64 ids that are never chosen.

    Returns:
        ``[rows, vocab]`` in the dtype of the logits, in float32 below that.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if temperature > 0:
        wide = wide / temperature
    keep = None
    if top_p is not None and top_p < 1:
        ordered, ids = wide.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1)
        outside = torch.zeros_like(before, dtype=torch.bool)
        outside[:, 1:] = before[:, :-1] > top_p
        keep = torch.empty_like(outside).scatter_(-1, ids, ~outside)
        wide = wide.masked_fill(~keep, -torch.inf)
    if top_k is not None and top_k < wide.shape[-1]:
        lowest = wide.topk(top_k, dim=-1).values[:, -1:]
        wide = wide.masked_fill(wide < lowest, -torch.inf)
    if suppress is not None and suppress.numel() and (top_p is not None or top_k is not None):
        wide = _keep_best_allowed(wide, logits, temperature, suppress)
    return wide


def _keep_best_allowed(filtered, logits, temperature, suppress):
    """Where only suppressed ids are left, the best other one comes back."""
    allowed = logits.index_fill(-1, suppress, -torch.inf)
    best = allowed.argmax(-1, keepdim=True)
    lost = filtered.index_fill(-1, suppress, -torch.inf).amax(-1, keepdim=True) == -torch.inf
    value = logits.gather(-1, best).to(filtered.dtype)
    value = value / temperature if temperature > 0 else value
    return filtered.scatter(-1, best, torch.where(lost, value, filtered.gather(-1, best)))
