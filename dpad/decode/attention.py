"""Attention of a pass: dpad's operator, and torch's for sequences of many rows on a GPU."""

from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dpad import ops
from dpad.decode.device import WIDE_ATTENTION

# `block_attention` reads K and V of a sequence once for every 96 rows; torch's kernels have larger
# tiles. They want tensors of the exact length, which the host knows where no graph is captured.
WIDE_ROWS = 256

# (rows, K/V start, keys) of every stream of a sequence.
Sizes = tuple[tuple[int, int, int], ...]
Run = tuple[int, int, int, bool]


class Rows(Protocol):
    """The rows of a pass, as a `Layout` has them."""

    slot: Tensor
    position: Tensor
    q_offsets: Tensor
    n_keys: Tensor
    kv_start: Tensor
    max_position: int
    sizes: Sizes | None


class Attention:
    """What every layer of a pass does with its queries, K and V.

    Args:
        layout: q_offsets ``[batch + 1]``, kv_start and n_keys ``[batch]``, int64 on the device;
            `sizes`, (rows, K/V start, keys) of every sequence, or None where only the device knows.
        scale: of the scores.
        like: a tensor with the dtype and device of queries.
        grouped: whether several query heads share one of K and V.
        key_mask: bool ``[slots]`` of the arena or None.
        key_limit: int64 ``[rows]``, each row's own limit of the slots it looks at, or None.
    """

    def __init__(
        self,
        layout: Rows,
        scale: float,
        like: Tensor,
        grouped: bool,
        key_mask: Tensor | None = None,
        key_limit: Tensor | None = None,
    ) -> None:
        self._layout, self._scale, self._key_mask = layout, scale, key_mask
        self._key_limit = key_limit
        self._grouped = grouped
        # Without 16-bit kernels or with a mask, torch's grouped heads and masks cost more memory.
        whole = key_mask is None and key_limit is None
        fits = whole and (like.element_size() == 2 or not grouped)
        wide = like.device.type in WIDE_ATTENTION and fits
        self._runs = _runs(layout.sizes) if wide and layout.sizes is not None else None

    def __call__(self, q: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        """``[rows, heads, head_dim]`` for all rows of the pass and the layer's caches."""
        if self._runs is None:
            return self.of_rows(q, k_cache, v_cache, self._layout.q_offsets)
        parts = [self._run(run, q, k_cache, v_cache) for run in self._runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def of_rows(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        offsets: Tensor,
        first: int = 0,
        end: int | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """The same for the rows of sequences ``[first, end)``, by dpad's operator; ``offsets`` from
        0 on; `rows` int64 are the pass's rows that q has, None: all.
        """
        limit = self._key_limit
        if limit is not None and rows is not None:
            limit = limit[rows]
        kv_start, n_keys = self._layout.kv_start[first:end], self._layout.n_keys[first:end]
        mask = self._key_mask
        return ops.block_attention(
            q, k_cache, v_cache, offsets, kv_start, n_keys, self._scale, mask, limit
        )

    def _run(self, run: Run, q: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        first, count, sequence, wide = run
        sizes = cast("Sizes", self._layout.sizes)[sequence : sequence + count]
        rows = sum(n for n, _, _ in sizes)
        q = q[first : first + rows]
        if not wide:
            offsets = self._layout.q_offsets[sequence : sequence + count + 1] - first
            return self.of_rows(q, k_cache, v_cache, offsets, sequence, sequence + count)
        k, v = (_slices(t, sizes) for t in (k_cache, v_cache))
        q = q.unflatten(0, (count, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, scale=self._scale, enable_gqa=self._grouped)
        return out.transpose(1, 2).flatten(0, 1)


def _slices(cache: Tensor, sizes: Sizes) -> Tensor:
    """The keys of sequences of one run, ``[count, num_kv_heads, keys, head_dim]``: a view."""
    _, start, keys = sizes[0]
    step = sizes[1][1] - start if len(sizes) > 1 else keys
    heads, slots, dims = cache.stride()
    size = (len(sizes), cache.shape[0], keys, cache.shape[2])
    at = cache.storage_offset() + start * slots
    return cache.as_strided(size, (step * slots, heads, slots, dims), at)


def _runs(sizes: Sizes) -> list[Run] | None:
    """(first row, sequences, first sequence, whether wide) of neighbours that go together.

    Wide ones do where rows and keys are equal and their starts follow each other at one distance.
    None if no sequence is wide.
    """
    runs: list[Run] = []
    first = 0
    for sequence, (rows, start, keys) in enumerate(sizes):
        wide, step = rows >= WIDE_ROWS, start - sizes[sequence - 1][1]
        same = bool(runs) and wide == runs[-1][3]
        if same and wide:
            count, begin = runs[-1][1:3]
            steady = step > 0 if count == 1 else step == sizes[begin + 1][1] - sizes[begin][1]
            same = steady and (rows, keys) == sizes[begin][::2]
        if same:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, *runs[-1][2:])
        else:
            runs.append((first, 1, sequence, wide))
        first += rows
    return runs if any(wide for *_, wide in runs) else None
