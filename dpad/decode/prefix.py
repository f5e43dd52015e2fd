"""Prompts of block-causal models that begin alike: their K/V is computed once, and copied."""

from collections.abc import Iterable

import torch

from dpad.decode.cache import KVArena
from dpad.decode.sequence import Sequence


def take(q: Sequence, live: Iterable[Sequence], arena: KVArena) -> int:
    """Copies K/V of the whole blocks that the prompt of `q` has in common with one of `live` which
    has computed them; returns how many positions that are.

    What finished blocks hold depends on nothing behind them, so nothing else changes.
    """
    donor, count = None, 0
    for other in live if q.shareable else ():
        if other.block_length == q.block_length:
            room = min(q.shareable, other.shareable, other.saved)
            same = int((q.tokens[:room] == other.tokens[:room]).long().cumprod(0).sum())
            whole = same - same % q.block_length
            if whole > count:
                donor, count = other, whole
    if donor is not None:
        with torch.inference_mode():
            arena.copy(donor.start, q.start, count)
        q.saved = q.shared = count
    return count
