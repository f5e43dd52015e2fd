"""Inputs of the operators of `dpad.ops.sampling`."""

from collections.abc import Sequence

import torch

from dpad.ops.inputs.values import MASK_ID, Arguments, offsets


def uniform(g: torch.Generator, dtype: torch.dtype, counts: Sequence[int] = (3, 2)) -> Arguments:
    return {
        "rng": torch.randint(-(2**62), 2**62, (len(counts), 3), generator=g),
        "l_offsets": offsets(counts),
        "position": torch.randint(0, 2**40, (sum(counts),), generator=g),
    }


def confidence(
    g: torch.Generator, dtype: torch.dtype, counts: Sequence[int] = (3, 2), vocab: int = 67,
    temperature: Sequence[float] = (0.0, 0.7), suppress: int = 1, exclude: int = 2,
    noise: bool = False, round_to_dtype: bool = False,
) -> Arguments:  # fmt: skip
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
    g: torch.Generator, dtype: torch.dtype, counts: Sequence[int] = (3, 2), canvas_rows: int = 3,
    length: int = 12, vocab: int = 100, rule: int = 0, rule_value: float = 0.5, quota: int = 2,
    early_stop: bool = True,
) -> Arguments:  # fmt: skip
    """Each sequence commits in a block of neighbours; about half of the canvas is masked."""
    batch, rows = len(counts), sum(counts)
    canvas = torch.randint(MASK_ID + 1, vocab, (canvas_rows, length), generator=g)
    masked = torch.rand(canvas_rows, length, generator=g) < 0.5
    starts = [int(torch.randint(0, length - c + 1, (), generator=g)) for c in counts]
    blocks = [torch.arange(s, s + c) for s, c in zip(starts, counts, strict=True)]
    position = torch.cat([torch.empty(0, dtype=torch.int64), *blocks])
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
