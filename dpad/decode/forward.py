"""The only transformer forward in the package: flat rows over slot-indexed K/V caches."""

import torch

from dpad import ops
from dpad.decode.attention import Attention

# Rows of an MLP that the CPU computes together: more, and its wide intermediates leave the caches
# and cost fresh pages in every layer. Under torch.compile the number of pieces would be part of the
# graph, one graph for each.
MLP_ROWS = 512


def _mlp(adapter, layer, x):
    """SwiGLU MLP of normed rows ``[rows, width]``."""
    whole = layer.whole_mlp()
    if whole is not None:
        return whole(x)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or x.shape[0] <= MLP_ROWS:
        return layer.down(ops.swiglu(*adapter.products((layer.gate, layer.up), x)))
    return torch.cat([_mlp(adapter, layer, part) for part in x.split(MLP_ROWS)])


def run_layers(adapter, hidden, layout, cache, logit_row=None, key_mask=None):
    """Runs every layer on the rows of one pass and returns the normed rows.

    Args:
        adapter: the model.
        hidden: embeddings ``[rows, width]``; overwritten.
        layout: slot, position ``[rows]``; q_offsets, l_offsets ``[batch + 1]``; kv_start, n_keys
            ``[batch]``, all int64; `sizes`, see `Attention`.
        cache: `KVCache` with room for the pass.
        logit_row: int64 ``[logit_rows]`` or None. In the last layer only these rows run q,
            attention, o and the MLP: nothing else of it is ever read.
        key_mask: bool ``[slots]`` of the arena or None.

    Returns:
        ``[logit_rows, width]``, or ``[rows, width]`` without `logit_row`.
    """
    cos, sin = adapter.rope(layout.max_position + 1)
    grouped = adapter.num_heads != adapter.num_kv_heads
    attention = Attention(layout, adapter.head_dim**-0.5, hidden, grouped, key_mask)
    delta = None
    for number, layer in enumerate(adapter.layers):
        k_cache, v_cache = cache.layers[number]
        x = layer.attention_norm(hidden, delta)
        position = layout.position
        last = logit_row is not None and number == len(adapter.layers) - 1
        if last:
            k, v = adapter.products((layer.k, layer.v), x)
            x, hidden = x[logit_row], hidden[logit_row]
            position = position[logit_row]
            q = layer.q(x)
        else:
            q, k, v = adapter.products((layer.q, layer.k, layer.v), x)
        q = ops.rope_kv_write_(
            q.unflatten(-1, (adapter.num_heads, -1)),
            k.unflatten(-1, (adapter.num_kv_heads, -1)),
            v.unflatten(-1, (adapter.num_kv_heads, -1)),
            position,
            layout.position,
            layout.slot,
            layout.q_offsets,
            layout.kv_start,
            cos,
            sin,
            k_cache,
            v_cache,
            adapter.rope_full_precision,
        )
        if last:
            a = attention.of_rows(q, k_cache, v_cache, layout.l_offsets)
        else:
            a = attention(q, k_cache, v_cache)
        x = layer.mlp_norm(hidden, layer.o(a.flatten(-2)))
        delta = _mlp(adapter, layer, x)
    return adapter.final_norm(hidden, delta)


def guided(logits, scale):
    """Classifier-free guidance of two streams, ``[2 rows, vocab]`` -> ``[rows, vocab]``.

    u + (scale + 1)(c - u), u the second half: its prompt is hidden (arXiv 2502.09992, eq. 16).
    """
    given, hidden = logits.chunk(2)
    return hidden + (scale + 1) * (given - hidden)


def logits_of_pass(adapter, tokens, layout, cache):
    """Logits ``[logit_rows, vocab]`` of one pass; only logit rows reach the head."""
    hidden = run_layers(adapter, adapter.embed(tokens), layout, cache, layout.logit_row)
    return adapter.head(hidden)
