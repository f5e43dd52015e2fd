"""The only transformer forward in the package: flat rows over slot-indexed K/V caches."""

from typing import Protocol, cast

import torch
from torch import Tensor

from dpad import ops
from dpad.decode.attention import Attention, Rows
from dpad.decode.layout import Layout
from dpad.models import block_hooks
from dpad.models.adapter import Adapter


class Caches(Protocol):
    """K and V of every layer, as a `KVArena` has them."""

    layers: list[tuple[Tensor, Tensor]]


class Layers:
    """The layers of one pass, all at once or a few at a time.

    Args:
        adapter: the model.
        hidden: embeddings ``[rows, width]``; overwritten.
        layout: slot, position ``[rows]``; q_offsets, l_offsets ``[batch + 1]``; kv_start, n_keys
            ``[batch]``, all int64; `sizes`, see `Attention`.
        arena: `KVArena` with room for the pass.
        logit_row: int64 ``[logit_rows]`` or None. In the last layer only these rows run q,
            attention, o and the MLP: nothing else of it is ever read.
        key_mask: bool ``[slots]`` or None.
        key_limit: int64 ``[rows]``, a row looks only at slots below it, or None.
    """

    def __init__(
        self,
        adapter: Adapter,
        hidden: Tensor,
        layout: Rows,
        arena: Caches,
        logit_row: Tensor | None = None,
        key_mask: Tensor | None = None,
        key_limit: Tensor | None = None,
    ) -> None:
        self.adapter, self.layout, self.arena, self.logit_row = adapter, layout, arena, logit_row
        self.rope = adapter.rope(layout.max_position + 1)
        grouped = adapter.num_heads != adapter.num_kv_heads
        scale = adapter.head_dim**-0.5
        self.attention = Attention(layout, scale, hidden, grouped, key_mask, key_limit)
        self.hidden, self.done, self.trimmed = hidden, 0, False
        self.delta: Tensor | None = None

    def run(self, count: int | None = None) -> bool:
        """Runs the next `count` layers, or all that are left; whether none is left."""
        layers = len(self.adapter.layers)
        end = layers if count is None else min(self.done + count, layers)
        for number in range(self.done, end):
            self._layer(number)
        self.done = end
        return end == layers

    def normed(self) -> Tensor:
        """What the head reads: ``[logit_rows, width]``, or ``[rows, width]`` of all rows."""
        if self.logit_row is not None and not self.trimmed:
            self._settle()
            self.hidden, self.trimmed = self.hidden[self.logit_row], True
        return self.adapter.final_norm(self.hidden, self.delta)

    def _layer(self, number: int) -> None:
        adapter, layout, layer = self.adapter, self.layout, self.adapter.layers[number]
        k_cache, v_cache = self.arena.layers[number]
        block = layer.hooked_block()
        if block is not None:
            self._settle()
            given = self.hidden = block_hooks.before(block, self.hidden, layout)
            given = given.clone()
        x, position = layer.attention_norm(self.hidden, self.delta), layout.position
        # A hook on the last block sees all of its rows.
        last = self.logit_row is not None and number == len(adapter.layers) - 1 and block is None
        if last:
            k, v = layer.attention.keys_values(adapter, x)
            x, self.hidden = x[self.logit_row], self.hidden[self.logit_row]
            position = position[self.logit_row]
            q = layer.attention.queries(adapter, x)
        else:
            q, k, v = layer.attention(adapter, x)
        q = ops.rope_kv_write_(
            q,
            k,
            v,
            position,
            layout.position,
            layout.slot,
            layout.q_offsets,
            layout.kv_start,
            *self.rope,
            k_cache,
            v_cache,
            adapter.rope_full_precision,
        )
        if last:
            offsets = cast("Layout", layout).l_offsets  # those of the `logit_row`
            a = self.attention.of_rows(q, k_cache, v_cache, offsets, rows=self.logit_row)
        else:
            a = self.attention(q, k_cache, v_cache)
        x = layer.mlp_norm(self.hidden, layer.attention.o(a.flatten(-2)))
        self.delta = layer.mlp(adapter, x)
        self.trimmed = last
        if block is not None:
            self._settle()
            self.hidden = block_hooks.after(block, given, self.hidden, layout, layer.in_tuple)

    def _settle(self) -> None:
        """The residual as a hook sees it, with what the last part added."""
        if self.delta is not None:
            self.hidden, self.delta = self.hidden.add_(self.delta), None


def run_layers(
    adapter: Adapter,
    hidden: Tensor,
    layout: Rows,
    arena: Caches,
    logit_row: Tensor | None = None,
    key_mask: Tensor | None = None,
    key_limit: Tensor | None = None,
) -> Tensor:
    """Runs every layer on the rows of one pass and returns the normed rows, see `Layers`."""
    layers = Layers(adapter, hidden, layout, arena, logit_row, key_mask, key_limit)
    layers.run()
    return layers.normed()


def guided(logits: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance of two streams, ``[2 rows, vocab]`` -> ``[rows, vocab]``.

    u + (scale + 1)(c - u), u the second half: its prompt is hidden (arXiv 2502.09992, eq. 16).
    `scale` is a number, or ``[rows]``.
    """
    given, hidden = logits.chunk(2)
    if not isinstance(scale, torch.Tensor):
        return hidden + (scale + 1) * (given - hidden)
    wide = torch.promote_types(logits.dtype, torch.float32)
    factor = (scale + 1).to(wide)[:, None]  # rounded as a number would be
    return hidden + (factor * (given - hidden).to(wide)).to(logits.dtype)


def logits_of_pass(adapter: Adapter, tokens: Tensor, layout: Layout, arena: Caches) -> Tensor:
    """Logits ``[logit_rows, vocab]`` of one pass; only logit rows reach the head."""
    hidden = run_layers(adapter, adapter.embed(tokens), layout, arena, layout.logit_row)
    return adapter.head(hidden)
