"""Attention of a pass: dpad's operator, and torch's for sequences of many rows on a GPU."""

from itertools import groupby

import torch
import torch.nn.functional as F

from dpad import ops

# `block_attention` reads K and V of a sequence once for every 96 rows; torch's kernels have larger
# tiles. They want tensors of the exact length, which the host knows where no graph is captured.
WIDE_ROWS = 256
WIDE_DEVICES = {"cuda"}


class Attention:
    """What every layer of a pass does with its queries, K and V.

    Args:
        layout: q_offsets ``[batch + 1]``, cache_row and n_keys ``[batch]``, int64 on the device;
            `sizes`, (rows, cache row, keys) of every sequence, or None where only the device knows.
        scale: of the scores.
        like: a tensor with the dtype and device of queries.
        grouped: whether several query heads share one of K and V.
        key_mask: bool ``[cache_rows, capacity]`` or None.
    """

    def __init__(self, layout, scale, like, grouped, key_mask=None):
        self._layout, self._scale, self._key_mask = layout, scale, key_mask
        self._grouped = grouped
        # Without 16-bit kernels or with a mask, torch's grouped heads and masks cost more memory.
        fits = key_mask is None and (like.element_size() == 2 or not grouped)
        wide = layout.sizes is not None and like.device.type in WIDE_DEVICES and fits
        self._runs = _runs(layout.sizes) if wide else None

    def __call__(self, q, k_cache, v_cache):
        """``[rows, heads, head_dim]`` for all rows of the pass and the layer's caches."""
        if self._runs is None:
            return self.of_rows(q, k_cache, v_cache, self._layout.q_offsets)
        parts = [self._run(run, q, k_cache, v_cache) for run in self._runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def of_rows(self, q, k_cache, v_cache, offsets, first=0, end=None):
        """The same for the rows of sequences ``[first, end)``, by dpad's operator; ``offsets`` from
        0 on.
        """
        cache_row, n_keys = self._layout.cache_row[first:end], self._layout.n_keys[first:end]
        mask = self._key_mask
        return ops.block_attention(
            q, k_cache, v_cache, offsets, cache_row, n_keys, self._scale, mask
        )

    def _run(self, run, q, k_cache, v_cache):
        first, count, sequence, wide = run
        sizes = self._layout.sizes[sequence : sequence + count]
        rows = sum(n for n, _, _ in sizes)
        q = q[first : first + rows]
        if not wide:
            offsets = self._layout.q_offsets[sequence : sequence + count + 1] - first
            return self.of_rows(q, k_cache, v_cache, offsets, sequence, sequence + count)
        _, cache_row, keys = sizes[0]
        k, v = (t[cache_row : cache_row + count, :, :keys] for t in (k_cache, v_cache))
        q = q.unflatten(0, (count, -1)).transpose(1, 2)
        options = {"scale": self._scale, "enable_gqa": self._grouped}
        out = F.scaled_dot_product_attention(q, k, v, **options)
        return out.transpose(1, 2).flatten(0, 1)


def _runs(sizes):
    """(first row, sequences, first sequence, whether wide) of neighbours that go together.

    Wide ones do where rows and keys are equal and the cache rows follow each other. None if no
    sequence is wide.
    """

    def kind(sequence):
        rows, cache_row, keys = sizes[sequence]
        return (rows, cache_row - sequence, keys) if rows >= WIDE_ROWS else None

    runs, first = [], 0
    for shape, group in groupby(range(len(sizes)), kind):
        members = list(group)
        runs.append((first, len(members), members[0], shape is not None))
        first += sum(sizes[b][0] for b in members)
    return runs if any(wide for *_, wide in runs) else None
