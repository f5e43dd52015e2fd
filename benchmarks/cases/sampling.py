"""Operators that decide against torch."""

from functools import partial

import torch

from benchmarks.cases.case import Case, drawn, size_of
from dpad import ops
from dpad.ops import reference


def confidence(device, rows, vocab, temperature=0.0):
    """Greedy token and its probability; with a temperature without peers."""
    sizes = {"counts": (rows,), "vocab": vocab, "temperature": (temperature,)}
    args = drawn("confidence", device, **sizes, suppress=0, exclude=0)
    logits = args["logits"]
    logits.scatter_(1, torch.arange(rows, device=device)[:, None] * 3, 24.0)  # no ties

    def published():
        p = torch.softmax(logits.double(), -1)
        token = p.argmax(-1)
        return token, p.gather(-1, token[:, None])[:, 0]

    def logsumexp():
        best, token = logits.float().max(-1)
        return token, torch.exp(best - torch.logsumexp(logits.float(), -1))

    def softmax():
        p, token = torch.softmax(logits.float(), -1).max(-1)
        return token, p

    def log_softmax():
        p, token = torch.log_softmax(logits, -1, torch.float32).max(-1)
        return token, p.exp()

    def exp_sum():
        wide = logits.float()
        best, token = wide.max(-1, keepdim=True)
        return token[:, 0], 1 / wide.sub_(best).exp_().sum(-1)

    peers = {"float64 soft-max": published}
    narrow = (logsumexp, softmax, log_softmax, exp_sum)
    peers |= {f"float32 expression: {f.__name__}": f for f in narrow}
    twin = lambda: reference.confidence(**args)[:2]  # noqa: E731
    return Case(
        f"confidence {rows} x {vocab}, temperature {temperature:g}",
        {"dpad": lambda: ops.confidence(**args)[:2], **(peers if temperature == 0 else {})},
        published if temperature == 0 else twin,
        1e-5,
        size_of(logits),
    )


def commits(device, rows, length):
    """One sequence by threshold; the canvas is masked again before every call."""
    sizes = {"counts": (rows,), "canvas_rows": 1, "length": length, "vocab": 1000, "quota": rows}
    args = drawn("unmask_", device, **sizes, rule=ops.RULES["threshold"], rule_value=0.9)
    position = torch.arange(length - rows, length, device=device)
    args |= {"position": position, "length": args["length"].fill_(length)}
    canvas, token, score, mask = (args[n] for n in ("canvas", "token", "score", "mask_id"))
    canvas[0, position] = mask
    start = canvas.clone()

    def after(call):
        canvas.copy_(start)
        call()
        return canvas.clone()

    def stock():
        block = canvas[0, position]
        ranked = torch.where(block == mask, score, -torch.inf)
        chosen = (ranked >= 0.9).index_fill(0, ranked.argmax(), True)
        canvas[0, position] = torch.where(chosen, token, block)

    calls = (lambda: ops.unmask_(**args), stock, lambda: reference.unmask_(**args))
    ours, peer, twin = (partial(after, call) for call in calls)
    size = 4 * size_of(start) + 5 * size_of(token)
    name = f"unmask_ {rows} rows, with copies of the canvas"
    return Case(name, {"dpad": ours, "torch": peer}, twin, 0, size)
