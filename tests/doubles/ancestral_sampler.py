"""Ancestral sampling, ReMDM and first hitting restated for one row, on the model's own forward.

Written from arXiv 2406.07524, 2503.00307 and 2503.09573, block by block, in loops.
`uniform(forward, position, vocab)` gives the numbers of a position's race in a forward; all
positions of a block race in every step.
"""

import math

import torch


def nucleus(logits, top_p, temperature, mask_id):
    """Probabilities float64 ``[n, vocab]`` without the mask, within `top_p`."""
    logits = logits.double().clone() / temperature
    logits[:, mask_id] = -torch.inf
    p = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        for row in p:
            order, mass = row.sort(descending=True).indices.tolist(), 0.0
            for rank, i in enumerate(order):
                mass += float(row[i])
                if rank and mass > top_p:
                    row[order[rank:]] = 0
                    break
            row /= row.sum()
    return p


def winner(weights, u):
    return int((weights / (1e-10 - torch.log(u + 1e-10))).argmax())


def weights_of(how, t, s):
    """(a, b, sigma or None where the soft-max decides, sigma_max) of a step from t to s."""
    kind, eta = (how.kind, how.eta) if how is not None else (None, 0.0)
    if kind == "loop" and how.t_off < t <= how.t_on:
        alpha_t = alpha_s = how.alpha_on
        sigma = eta
    elif kind == "loop":
        if t > how.t_on:
            t, s = (1 - (1 - x) * how.alpha_on / (1 - how.t_on) for x in (t, s))
        else:
            t, s = (x * (1 - how.alpha_on) / how.t_off for x in (t, s))
        return t - s, s, 0.0, 0.0
    else:
        alpha_t, alpha_s = 1 - t, 1 - s
        most = min(1, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1
        if kind == "conf":
            return (alpha_s - alpha_t) / (1 - alpha_t), (1 - alpha_s) / (1 - alpha_t), None, most
        sigma = {
            None: 0.0,
            "cap": min(eta or 0, most),
            "rescale": (eta or 0) * most,
            "forward-backward": (alpha_s - alpha_t) / alpha_t if alpha_t > 0 else 1.0,
        }[kind]
    a = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    return a, (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t), sigma, 0.0


@torch.no_grad()
def decode(model, prompt, how, uniform, *, new, block, steps, mask_id, shift=0, temperature=1.0,
           top_p=None, eps=1e-5, ends=()):  # fmt: skip
    """Tokens of the answer as a list, and whether anything was masked again."""
    canvas = torch.tensor([list(prompt) + [mask_id] * new])
    psi = [-math.inf] * canvas.shape[1]
    forward, masked_again = 0, False
    starts = range(len(prompt), len(prompt) + new, block)
    for start, n in zip(starts, steps, strict=True):
        places = range(start, min(start + block, len(prompt) + new))
        times = torch.linspace(1, eps, n + 1).tolist()
        for i in range(n + 1):
            left = [j for j in places if canvas[0, j] == mask_id]
            if not left and (how is None or i >= n):
                break
            rows = [j - shift for j in places]
            p = nucleus(model(canvas).logits[0, rows], top_p, temperature, mask_id)
            if i == n:
                for j in left:
                    canvas[0, j] = int(p[j - start].argmax())
                forward += 1
                break
            a, b, sigma, most = weights_of(how, times[i], times[i] - (1 - eps) / n)
            total = sum(math.exp(psi[j]) for j in places)
            for j in places:
                u, token = uniform(forward, j, p.shape[1]), int(canvas[0, j])
                if token == mask_id:
                    weights = p[j - start] * a
                    weights[mask_id] = b
                    drawn = winner(weights, u)
                    if drawn != mask_id:
                        canvas[0, j], psi[j] = drawn, -float(p[j - start, drawn])
                elif how is not None:
                    own = most * math.exp(psi[j]) / total if sigma is None else sigma
                    weights = torch.zeros_like(p[0])
                    weights[token], weights[mask_id] = 1 - own, own
                    if winner(weights, u) == mask_id:
                        canvas[0, j], psi[j], masked_again = mask_id, -math.inf, True
            forward += 1
        if set(ends) & set(canvas[0, list(places)].tolist()):
            break
    return canvas[0, len(prompt) :].tolist(), masked_again


@torch.no_grad()
def first_hitting(model, prompt, uniform, chosen, *, new, block, mask_id, shift=0, top_p=None):
    """One mask per step, that of the greatest of the numbers `chosen(forward, position)`."""
    canvas, forward = torch.tensor([list(prompt) + [mask_id] * new]), 0
    for start in range(len(prompt), len(prompt) + new, block):
        for _ in range(min(block, len(prompt) + new - start)):
            places = range(start, min(start + block, len(prompt) + new))
            left = [j for j in places if canvas[0, j] == mask_id]
            j = max(left, key=lambda j: chosen(forward, j))
            p = nucleus(model(canvas).logits[0, [j - shift]], top_p, 1.0, mask_id)[0]
            canvas[0, j] = winner(p, uniform(forward, j, len(p)))
            forward += 1
    return canvas[0, len(prompt) :].tolist()
