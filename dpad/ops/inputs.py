"""Inputs of every operator, made to size: for `dpad.doctor`, the tests and the benchmarks.

`make` gives the arguments of a valid call by name, in the order of the schema. Sizes are options;
values come from a generator. Counts are rows of each sequence.
"""

import torch

MASK_ID = 7


def ints(*values):
    return torch.tensor(values, dtype=torch.int64)


def offsets(counts):
    """[0, c0, c0 + c1, ...], int64."""
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def suffix_table(
    g, dtype, kind="gaussian", grid="repo", window=16, decay=3.0, scale=1.6, count=0.0, near=2,
    length=20,
):  # fmt: skip
    table = {"kind": kind, "grid": grid, "window": window, "decay": decay, "scale": scale}
    return {**table, "count": count, "near": near, "length": length}


def transfer_schedule(g, dtype, masks=32, steps=5):
    return {"masks": masks, "steps": steps}


def suffix_sample(g, dtype, left=(40, 4), length=40, keep_last=True, **table):
    """`left`: suffix positions of each sequence."""
    batch, end = len(left), torch.randint(0, 99, (len(left),), generator=g)
    far = lambda: torch.randint(-(2**62), 2**62, (batch,), generator=g)  # noqa: E731
    keys = {
        "seed": far(),
        "row_key": far(),
        "block": torch.randint(0, 9, (batch,), generator=g),
        "redraw": torch.randint(0, 4, (batch,), generator=g),
        "end": end,
        "total": end + torch.tensor(left, dtype=torch.int64),
    }
    table = suffix_table(g, dtype, **table)
    del table["length"]
    return {**keys, **table, "keep_last": keep_last, "length": length}


def plan_pass(
    g, dtype, blocks=((3, 6), (0, 2)), kept=(2, 1), scope=(1, 0), shift=1, block_length=4
):
    """`blocks`: (start, end) of each sequence; `kept`: kept positions behind it."""
    columns, batch = max(kept, default=0), len(blocks)
    positions = torch.full((batch, columns), -1, dtype=torch.int64)
    for b, ((_, end), count) in enumerate(zip(blocks, kept, strict=True)):
        drawn = torch.randperm(2 * count + 3, generator=g)[:count].sort().values
        positions[b, :count] = end + drawn
    draw = lambda low, high: int(torch.randint(low, high + 1, (), generator=g))  # noqa: E731
    start, end = torch.tensor(blocks, dtype=torch.int64).view(-1, 2).unbind(1)
    return {
        "start": start.clone(),
        "end": end.clone(),
        "kept": positions,
        "kept_count": torch.tensor(kept, dtype=torch.int64),
        "scope": torch.tensor(scope, dtype=torch.int64),
        "first": torch.tensor([draw(0, s) for s, _ in blocks], dtype=torch.int64),
        "first_target": torch.tensor([draw(s, e) for s, e in blocks], dtype=torch.int64),
        "shift": shift,
        "block_length": block_length,
    }


def suffix_gather(g, dtype, counts=(3, 2), canvas_rows=3, length=12, hidden=True):
    rows, batch = sum(counts), len(counts)
    until = torch.randint(0, length + 1, (batch,), generator=g)
    return {
        "canvas": torch.randint(0, 999, (canvas_rows, length), generator=g),
        "canvas_row": torch.randperm(canvas_rows, generator=g)[:batch],
        "q_offsets": offsets(counts),
        "position": torch.randint(0, length, (rows,), generator=g),
        "hidden_until": until if hidden else None,
        "mask_id": MASK_ID,
    }


def _ranges(g, lengths, gap):
    """Starts of ranges of the arena that do not overlap, in random order, and the slots of all."""
    starts, end = [0] * len(lengths), gap
    for b in torch.randperm(len(lengths), generator=g).tolist():
        starts[b], end = end, end + lengths[b] + gap
    return torch.tensor(starts, dtype=torch.int64), end


def rope_kv_write_(
    g, dtype, counts=(3, 2), q_rows=None, heads=4, kv_heads=2, head_dim=8, turned=4, positions=16,
    capacity=6, gap=1, padding=True, full_precision=True,
):  # fmt: skip
    """`capacity` slots for each sequence; with `padding` about one row in eight has no slot."""
    rows, q_rows = sum(counts), sum(counts) if q_rows is None else q_rows
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    angle = torch.rand(positions, turned, generator=g) * 6
    slot = [torch.randperm(capacity, generator=g)[:count] for count in counts]
    slot = torch.cat([torch.empty(0, dtype=torch.int64), *slot])
    if padding:
        slot = slot.masked_fill(torch.rand(rows, generator=g) < 0.125, -1)
    kv_start, slots = _ranges(g, [capacity] * len(counts), gap)
    return {
        "q": draw(q_rows, heads, head_dim),
        "k": draw(rows, kv_heads, head_dim),
        "v": draw(rows, kv_heads, head_dim),
        "q_position": torch.randint(0, positions, (q_rows,), generator=g),
        "position": torch.randint(0, positions, (rows,), generator=g),
        "slot": slot,
        "q_offsets": offsets(counts),
        "kv_start": kv_start,
        "cos": angle.cos(),
        "sin": angle.sin(),
        "k_cache": draw(kv_heads, slots, head_dim),
        "v_cache": draw(kv_heads, slots, head_dim),
        "full_precision": full_precision,
    }


def block_attention(
    g, dtype, counts=(3, 2), keys=(6, 4), heads=4, kv_heads=2, head_dim=8, gap=1, mask=True,
    limit=True, unread=None,
):  # fmt: skip
    """`unread` is what slots that no row may look at hold; by default they are like the others."""
    rows, (kv_start, slots) = sum(counts), _ranges(g, keys, gap)
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    key_mask = torch.rand(slots, generator=g) < 0.8
    least = [torch.randint(-1, n + 3, (c,), generator=g) for c, n in zip(counts, keys, strict=True)]
    key_limit = torch.cat([torch.empty(0, dtype=torch.int64), *least])
    caches = [draw(kv_heads, slots, head_dim) for _ in range(2)]
    if unread is not None:
        seen = torch.zeros(slots, dtype=torch.bool)
        for start, n, count, limits in zip(kv_start.tolist(), keys, counts, least, strict=True):
            most = min(n, int(limits.max())) if limit and count else n if count else 0
            seen[start : start + max(most, 0)] = True
        seen = seen & key_mask if mask else seen
        caches = [torch.where(seen[:, None], c, unread).to(dtype) for c in caches]
    return {
        "q": draw(rows, heads, head_dim),
        "k_cache": caches[0],
        "v_cache": caches[1],
        "q_offsets": offsets(counts),
        "kv_start": kv_start,
        "n_keys": torch.tensor(keys, dtype=torch.int64),
        "scale": max(head_dim, 1) ** -0.5,
        "key_mask": key_mask if mask else None,
        "key_limit": key_limit if limit else None,
    }


def add_rms_norm_(g, dtype, rows=5, width=33, delta=True):
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    added = draw(rows, width) if delta else None
    return {"residual": draw(rows, width), "delta": added, "weight": draw(width), "eps": 1e-5}


def swiglu(g, dtype, rows=5, width=33):
    return {k: torch.randn(rows, width, generator=g).to(dtype) for k in ("gate", "up")}


def linear(g, dtype, rows=5, in_features=33, out_features=21, bias=True):
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    added = draw(out_features) if bias else None
    return {"x": draw(rows, in_features), "weight": draw(out_features, in_features), "bias": added}


def int8_linear(
    g, dtype, rows=5, in_features=33, out_features=21, bias=True, smoothing=True
):  # fmt: skip
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    size = out_features, in_features
    return {
        "x": draw(rows, in_features),
        "weight": torch.randint(-127, 128, size, generator=g, dtype=torch.int8),
        "scale": torch.rand(out_features, generator=g),
        "bias": draw(out_features) if bias else None,
        "smoothing": torch.rand(in_features, generator=g) + 0.5 if smoothing else None,
    }


def route(
    g, dtype, rows=5, experts=12, top_k=3, score="sigmoid", normalise=True, groups=4, top_groups=2,
    bias=True, scaling=2.5,
):  # fmt: skip
    """Logits are multiples of 1/4: ties are exact, and nothing else is near to one."""
    logits = 0.25 * torch.randint(-16, 17, (rows, experts), generator=g)
    added = 0.1 * torch.randn(experts, generator=g) if bias else None
    choice = {"top_k": top_k, "score": score, "normalise": normalise, "groups": groups}
    rest = {"top_groups": top_groups, "scaling": scaling}
    return {"logits": logits.to(dtype), "bias": added, **choice, **rest}


def grouped_linear(g, dtype, counts=(2, 0, 3), in_features=16, out_features=7):
    """`counts` are rows of each expert."""
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    args = {
        "x": draw(sum(counts), in_features),
        "weight": draw(len(counts), out_features, in_features),
    }
    return {**args, "offsets": offsets(counts)[1:].int()}


def combine(g, dtype, rows=3, top_k=2, width=33, full_precision=False, round_weights=True):
    return {
        "y": torch.randn(rows * top_k, width, generator=g).to(dtype),
        "order": torch.randperm(rows * top_k, generator=g),
        "weight": torch.rand(rows, top_k, generator=g),
        "full_precision": full_precision,
        "round_weights": round_weights,
    }


def uniform(g, dtype, counts=(3, 2)):
    return {
        "rng": torch.randint(-(2**62), 2**62, (len(counts), 3), generator=g),
        "l_offsets": offsets(counts),
        "position": torch.randint(0, 2**40, (sum(counts),), generator=g),
    }


def confidence(
    g, dtype, counts=(3, 2), vocab=67, temperature=(0.0, 0.7), suppress=1, exclude=2, noise=False,
    round_to_dtype=False,
):  # fmt: skip
    """`suppress` and `exclude` are numbers of ids; `noise`: supplied, not drawn by the operator."""
    rows, draws = sum(counts), uniform(g, dtype, counts)
    drawn = torch.rand(rows, vocab, generator=g, dtype=torch.float64)
    return {
        "logits": (3 * torch.randn(rows, vocab, generator=g)).to(dtype),
        "l_offsets": draws["l_offsets"],
        "position": draws["position"],
        "rng": draws["rng"],
        "temperature": torch.tensor(temperature, dtype=torch.float64),
        "suppress": torch.randperm(vocab, generator=g)[: min(suppress, vocab - 1)],
        "exclude": torch.randperm(vocab, generator=g)[: min(exclude, vocab - 1)],
        "noise": -torch.log(-torch.log(drawn)) if noise else None,
        "round_to_dtype": round_to_dtype,
    }


def unmask_(
    g, dtype, counts=(3, 2), canvas_rows=3, length=12, vocab=100, rule=0, rule_value=0.5, quota=2,
    early_stop=True,
):  # fmt: skip
    """Each sequence commits in a block of neighbours; about half of the canvas is masked."""
    batch, rows = len(counts), sum(counts)
    canvas = torch.randint(MASK_ID + 1, vocab, (canvas_rows, length), generator=g)
    masked = torch.rand(canvas_rows, length, generator=g) < 0.5
    starts = [int(torch.randint(0, length - c + 1, (), generator=g)) for c in counts]
    position = [torch.arange(s, s + c) for s, c in zip(starts, counts, strict=True)]
    position = torch.cat([torch.empty(0, dtype=torch.int64), *position])
    score = torch.rand(rows, generator=g, dtype=torch.float64)
    return {
        "canvas": canvas.masked_fill(masked, MASK_ID),
        "committed_at": torch.full((canvas_rows, length), -1),
        "committed": torch.zeros(canvas_rows, length, dtype=torch.float64),
        "masks_left": torch.randint(0, 9, (canvas_rows,), generator=g),
        "status": torch.zeros(canvas_rows, dtype=torch.int64),
        "forward": torch.randint(0, 9, (canvas_rows,), generator=g),
        "canvas_row": torch.randperm(canvas_rows, generator=g)[:batch],
        "l_offsets": offsets(counts),
        "position": position,
        "token": torch.randint(MASK_ID + 1, vocab, (rows,), generator=g),
        "score": score,
        "probability": score.flip(0),
        "rule_value": torch.full((batch,), rule_value, dtype=torch.float64),
        "quota": torch.full((batch,), quota, dtype=torch.int64),
        "length": torch.tensor(
            [max(length - 2, s + c) for s, c in zip(starts, counts, strict=True)]
        )
        .long()
        .clamp(max=length),
        "end_ids": torch.randperm(vocab, generator=g)[:5],
        "rule": rule,
        "early_stop": early_stop,
        "mask_id": MASK_ID,
        "fill_id": MASK_ID + 1,
    }


_MAKERS = {
    f.__name__: f
    for f in (
        suffix_table,
        transfer_schedule,
        suffix_sample,
        plan_pass,
        suffix_gather,
        rope_kv_write_,
        block_attention,
        add_rms_norm_,
        swiglu,
        linear,
        int8_linear,
        route,
        grouped_linear,
        combine,
        confidence,
        uniform,
        unmask_,
    )
}
NAMES = tuple(_MAKERS)
# Arguments that are written.
WRITTEN = {
    "rope_kv_write_": ("k_cache", "v_cache"),
    "add_rms_norm_": ("residual",),
    "unmask_": ("canvas", "committed_at", "committed", "masks_left", "status", "forward"),
}
# Operators that sum or round in another order than their twins; the others give the same bits.
ROUNDED = ("block_attention", "add_rms_norm_", "swiglu", "linear", "route", "grouped_linear")
ROUNDED += ("confidence",)


def make(name, seed=0, dtype=torch.float32, /, device="cpu", **sizes):
    """Arguments of a valid call of operator `name`, the same ones for the same seed and sizes."""
    with torch.device(device):
        return _MAKERS[name](torch.Generator(device).manual_seed(seed), dtype, **sizes)
