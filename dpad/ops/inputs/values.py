"""What the inputs of several operators are made of."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MASK_ID = 7
Arguments = dict[str, Any]


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def offsets(counts: Sequence[int]) -> Tensor:
    """[0, c0, c0 + c1, ...], int64."""
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def normal(g: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g).to(dtype)


def one(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=g))
