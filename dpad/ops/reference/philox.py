"""Philox4x32-10 (Salmon et al., SC 2011) in int64 torch arithmetic."""

from collections.abc import Sequence

import torch
from torch import Tensor

STREAMS = {"suffix": 1, "noise": 2, "order": 3}
_LOW = 0xFFFFFFFF


def _product(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low words of a 32 x 32 bit product; int64 wraps, the bits are right."""
    wide = word * constant
    return (wide >> 32) & _LOW, wide & _LOW


def philox(
    counter: Sequence[Tensor], key: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds. counter: four int64 tensors of 32-bit words; key: two. Returns four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a_high, a_low = _product(0xD2511F53, c0)
        b_high, b_low = _product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = b_high ^ c1 ^ k0, b_low, a_high ^ c3 ^ k1, a_low
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


def words(value: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high 32-bit words of an int64 tensor."""
    return value & _LOW, (value >> 32) & _LOW


def stream_key(seed: Tensor, row_key: Tensor, stream: str) -> tuple[Tensor, Tensor]:
    """Key of a row's stream: two int64 tensors of 32-bit words, shaped like `row_key`."""
    zero = torch.zeros_like(row_key)
    low, high = words(row_key)
    counter = (low, high, zero + STREAMS[stream], zero)
    mixed = philox(counter, words(zero + seed))
    return mixed[0], mixed[1]
