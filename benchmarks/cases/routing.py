"""A routed MLP's operators against torch."""

from functools import partial

import torch

from benchmarks.cases.case import against_torch, drawn
from dpad.ops import reference


def route(device, rows, experts, top_k=8):
    """Logits so far apart that rounding changes no choice."""
    sizes = {"experts": experts, "top_k": top_k, "score": "softmax", "groups": 1, "top_groups": 1}
    args = drawn("route", device, rows=rows, **sizes, bias=False, scaling=1.0)
    args["logits"] = torch.rand(rows, experts, device=device).argsort(-1) / 8
    stock = partial(reference.route, **args)
    return against_torch("route", f"{rows} x {experts}", args, stock, 1e-5)


def combine(device, rows, width, top_k=8):
    args = drawn("combine", device, rows=rows, top_k=top_k, width=width, full_precision=True)
    y, place, weight = args["y"], args["order"].argsort(), args["weight"]
    terms = lambda: y[place].view(rows, top_k, width).float() * weight[..., None]  # noqa: E731
    stock = lambda: terms().sum(1).to(y.dtype)  # noqa: E731
    return against_torch("combine", f"{rows} x {width}", args, stock)
