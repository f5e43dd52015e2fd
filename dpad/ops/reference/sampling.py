"""Twins of the sampling operators."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dpad.ops._names import RULES, STATUS, STOPS
from dpad.ops.reference.philox import philox, stream_key, words


def _per_row(values: Tensor, l_offsets: Tensor, rows: int) -> Tensor:
    """Values of each sequence, repeated for its logit rows."""
    return torch.repeat_interleave(values, l_offsets.diff(), dim=0, output_size=rows)


def gumbel(rng: Tensor, l_offsets: Tensor, position: Tensor, vocab: int) -> Tensor:
    """Standard Gumbel noise float64 [logit_rows, vocab] of the library's counter-based stream.

    The 64 random bits of an id give an exponential variate with full relative precision near
    zero, where the winning ids are (a 24-bit uniform would truncate the upper tail).
    """
    rows = position.shape[0]
    seed, row_key, forward = _per_row(rng, l_offsets, rows).unbind(-1)
    k0, k1 = stream_key(seed, row_key, "noise")
    ids = torch.arange(vocab, device=rng.device).expand(rows, vocab)
    low, high = words(position)
    counter = tuple(
        c.expand(rows, vocab)
        for c in (ids >> 1, low[:, None], (forward & 0xFFFFFFFF)[:, None], high[:, None])
    )
    drawn = torch.stack(philox(counter, (k0[:, None], k1[:, None])), dim=-1)
    pair = drawn.view(rows, vocab, 2, 2).gather(2, (ids & 1)[..., None, None].expand(-1, -1, 1, 2))
    return gumbel_of_words(pair[..., 0, 0], pair[..., 0, 1])


def gumbel_of_words(first: Tensor, second: Tensor) -> Tensor:
    """Gumbel variate -log(-log1p(-v)) of two 32-bit words, v = (n + 1/2) / 2^64."""
    v = (first.double() * 2.0**32 + second.double() + 0.5) * 2.0**-64
    exponential = torch.where(v < 0.5, -torch.log1p(-v), -torch.log(_complement(first, second)))
    return -torch.log(exponential)


def _complement(first: Tensor, second: Tensor) -> Tensor:
    """1 - v with full relative precision near v = 1."""
    top, bottom = 0xFFFFFFFF - first, 0xFFFFFFFF - second
    return (top.double() * 2.0**32 + bottom.double() + 0.5) * 2.0**-64


def confidence(
    logits: Tensor,
    l_offsets: Tensor,
    position: Tensor,
    rng: Tensor,
    temperature: Tensor,
    suppress: Tensor,
    exclude: Tensor,
    noise: Tensor | None,
    round_to_dtype: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Twin of `dpad.ops.confidence`, in float64."""
    wide = logits.double()
    rows = wide.shape[0]
    drawn = wide
    per_row = torch.repeat_interleave(temperature, l_offsets.diff(), output_size=rows)[:, None]
    if noise is None and bool((temperature > 0).any()):
        noise = gumbel(rng, l_offsets, position, wide.shape[1])
    if noise is not None:
        hot = (per_row > 0) & (wide > float("-inf"))  # -inf stays where the product overflows
        drawn = torch.where(hot, wide + per_row * noise, wide)
    # The lowest allowed id that no allowed id beats; also where every score is -inf or NaN.
    allowed = torch.ones(wide.shape[1], dtype=torch.bool, device=wide.device)
    allowed[suppress] = False
    best = drawn.masked_fill(~allowed, float("-inf")).amax(-1, keepdim=True)
    token = (~(drawn < best) & allowed).int().argmax(-1)
    included = wide.index_fill(1, exclude, float("-inf"))
    p = torch.softmax(included, dim=-1)
    top = torch.topk(p, min(2, p.shape[1]), dim=-1).values
    margin = top[:, 0] - top[:, 1] if p.shape[1] > 1 else top[:, 0]
    entropy = torch.special.entr(p).sum(-1)
    probability = p.gather(1, token[:, None])[:, 0]
    if round_to_dtype:
        scores = (probability, margin, entropy)
        probability, margin, entropy = (s.to(logits.dtype).double() for s in scores)
    return token, probability, margin, entropy


def uniform(rng: Tensor, l_offsets: Tensor, position: Tensor) -> Tensor:
    """Twin of `dpad.ops.uniform`."""
    seed, row_key, forward = _per_row(rng, l_offsets, position.shape[0]).unbind(-1)
    low, high = words(position)
    counter = (low, high, forward & 0xFFFFFFFF, torch.zeros_like(position))
    drawn = philox(counter, stream_key(seed, row_key, "order"))
    return (drawn[0].double() * 2.0**32 + drawn[1].double() + 0.5) * 2.0**-64


def _accepted(rule: int, score: Sequence[float], rule_value: float) -> int:
    """How many of the ranked candidates (a list of scores in rank order) a rule accepts."""
    n, m = len(score), 1
    if rule in (RULES["threshold"], RULES["at_least"]):
        while m < n and score[m] >= rule_value:
            m += 1
    elif rule == RULES["factor"]:
        while m < n and rule_value > 0 and (m + 2) * (1 - score[m]) <= rule_value:
            m += 1
    elif rule == RULES["quota"]:
        m = n
    elif rule == RULES["entropy_bound"]:
        smaller = score[0]
        while m < n and smaller <= rule_value:
            smaller += score[m]
            m += 1
    elif rule == RULES["entropy_sum"]:
        total = score[0]
        while m < n and (total := total + score[m]) < rule_value:
            m += 1
    elif rule == RULES["below"]:
        m = sum(s < rule_value for s in score)
    else:
        while m < n and score[m] >= 1 - rule_value / (m + 2):
            m += 1
        m = n if m == n - 1 else m
    return m


def unmask_(
    canvas: Tensor,
    committed_at: Tensor,
    committed: Tensor,
    masks_left: Tensor,
    status: Tensor,
    forward: Tensor,
    canvas_row: Tensor,
    l_offsets: Tensor,
    position: Tensor,
    token: Tensor,
    score: Tensor,
    probability: Tensor,
    rule_value: Tensor,
    quota: Tensor,
    length: Tensor,
    end_ids: Tensor,
    rule: int,
    early_stop: int,
    mask_id: int,
    fill_id: int,
) -> None:
    """Twin of `dpad.ops.unmask_`: one sequence after the other."""
    bounds = l_offsets.tolist()
    ascending = [RULES[n] for n in ("entropy_bound", "below", "entropy_sum")]
    for b, row in enumerate(canvas_row.tolist()):
        rows = slice(bounds[b], bounds[b + 1])
        places, tokens = position[rows], token[rows]
        now = int(forward[row])
        forward[row] += 1
        if not places.numel():  # a pass that predicts nothing finishes nothing
            status[row] = STATUS["running"]
            continue
        eligible = (canvas[row, places] == mask_id).nonzero()[:, 0]
        scores = score[rows][eligible]
        if scores.isnan().any():
            status[row] = STATUS["nan"]
            continue
        order = torch.sort(scores, descending=rule not in ascending, stable=True).indices
        ranked = scores[order].tolist()
        m = _accepted(rule, ranked, float(rule_value[b])) if ranked else 0
        most = min(max(int(quota[b]), 0), len(ranked))
        if not most or rule != RULES["at_least"]:
            m = min(m, most)
        m = max(m, most) if rule == RULES["at_least"] else m
        chosen = eligible[order[:m]]
        canvas[row, places[chosen]] = tokens[chosen]
        committed_at[row, places[chosen]] = now
        committed[row, places[chosen]] = probability[rows][chosen]
        masks_left[row] = len(ranked) - m
        status[row] = STATUS["running" if len(ranked) > m else "block_done"]
        looks = early_stop == STOPS["text"] or (early_stop and len(ranked) == m)
        left = places[canvas[row, places] == mask_id].tolist()
        until = min(left, default=int(places.max()) + 1)
        if looks and torch.isin(canvas[row, places[places < until]], end_ids).any():
            status[row], masks_left[row] = STATUS["finished"], 0
            tail = canvas[row, until : int(length[b])]
            tail.masked_fill_(tail == mask_id, fill_id)
