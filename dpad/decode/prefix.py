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
    donor, count, most = None, 0, _shareable(q)
    for other in live if most else ():
        if other.block_length == q.block_length:
            room = min(most, _shareable(other), other.saved)
            same = int((q.tokens[:room] == other.tokens[:room]).long().cumprod(0).sum())
            whole = same - same % q.block_length
            if whole > count:
                donor, count = other, whole
    if donor is not None:
        with torch.inference_mode():
            arena.copy(donor.start, q.start, count)
        q.saved = q.shared = count
    return count


def _shareable(q: Sequence) -> int:
    """Leading positions, whole blocks of the prompt, whose K/V may come from elsewhere."""
    if not q.causal or q.cache == "none" or q.streams == 2 or q.saves_apart:
        return 0
    begin, _ = q.blocks[0]
    whole = begin - begin % q.block_length
    # The block before a first token that its last row predicts has to be computed.
    return max(whole - q.block_length, 0) if q.first_given else whole
