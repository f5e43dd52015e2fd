"""Operators of a forward: the rows' tokens, RoPE and the cache, attention, norms, products."""

from torch import Tensor

from dpad.ops import _dispatch


def suffix_gather(
    canvas: Tensor,
    canvas_row: Tensor,
    q_offsets: Tensor,
    position: Tensor,
    hidden_until: Tensor | None = None,
    mask_id: int = 0,
) -> Tensor:
    """Tokens of the pass's rows from the canvas, by position.

    Args:
        canvas: int64 ``[canvas_rows, length]``.
        canvas_row: int64 ``[batch]``.
        position: int64 ``[rows]``.
        hidden_until: int64 ``[batch]`` or None: positions below it read as `mask_id`.

    Returns:
        int64 ``[rows]``.
    """
    args = (canvas, canvas_row, q_offsets, position, hidden_until, mask_id)
    return _dispatch.run("suffix_gather", (canvas,), *args)


def rope_kv_write_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_position: Tensor,
    position: Tensor,
    slot: Tensor,
    q_offsets: Tensor,
    kv_start: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    full_precision: bool = True,
) -> Tensor:
    """Rotates q and k at their positions, writes k and v into their slots in place.

    Args:
        q: ``[q_rows, num_heads, head_dim]``; k, v: ``[rows, num_kv_heads, head_dim]``.
        q_position: int64 ``[q_rows]``; position, slot: int64 ``[rows]``, slot -1 is not written;
            no slot of the arena is written twice in a call.
        kv_start: int64 ``[batch]``, where the slots of each sequence begin in the arena.
        cos, sin: float32 ``[positions, rotary_dim / 2]``, half-split RoPE; the dimensions from
            rotary_dim on are copied.
        k_cache, v_cache: ``[num_kv_heads, slots, head_dim]``, written; they share no memory with
            anything else.
        full_precision: rotate in float32 and round once, else round every product to the dtype.

    Returns:
        the rotated q, ``[q_rows, num_heads, head_dim]``.
    """
    tensors = (q, k, v, k_cache, v_cache)
    index = (q_position, position, slot, q_offsets, kv_start, cos, sin)
    args = (q, k, v, *index, k_cache, v_cache, full_precision)
    return _dispatch.run("rope_kv_write_", tensors, *args)


def block_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    q_offsets: Tensor,
    kv_start: Tensor,
    n_keys: Tensor,
    scale: float,
    key_mask: Tensor | None = None,
    key_limit: Tensor | None = None,
) -> Tensor:
    """Bidirectional attention of flat rows over the first n_keys slots of their sequences.

    Args:
        q: ``[rows, num_heads, head_dim]``; heads share K/V in groups.
        k_cache, v_cache: ``[num_kv_heads, slots, head_dim]``.
        kv_start, n_keys: int64 ``[batch]``: sequence b looks at the slots
            ``[kv_start[b], kv_start[b] + n_keys[b])`` of the arena.
        scale: multiplies the products, usually ``head_dim ** -0.5``.
        key_mask: bool ``[slots]`` of the arena, True may be looked at.
        key_limit: int64 ``[rows]``, a row looks only at the slots of its sequence below its limit.

    Returns:
        ``[rows, num_heads, head_dim]``; zeros where a row sees no key.
    """
    args = (q_offsets, kv_start, n_keys, scale, key_mask, key_limit)
    return _dispatch.run("block_attention", (q, k_cache, v_cache), q, k_cache, v_cache, *args)


def add_rms_norm_(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Adds `delta` into `residual` in place and returns the RMS-normed rows.

    The sum is rounded to the dtype; the norm is taken in float32, rounded, then multiplied by the
    weight in the dtype.

    Args:
        residual: ``[rows, width]``, written; delta: ``[rows, width]`` or None; weight ``[width]``.

    Returns:
        ``[rows, width]``.
    """
    return _dispatch.run("add_rms_norm_", (residual, delta, weight), residual, delta, weight, eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, silu in float32 and rounded before the product.

    Args:
        gate, up: ``[rows, width]``.

    Returns:
        ``[rows, width]``.
    """
    return _dispatch.run("swiglu", (gate, up), gate, up)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight^T + bias`` as torch.nn.functional.linear; made for few rows.

    The sum of an element is taken in float32 in a fixed order and rounded once: a row has the same
    bits alone and among any others, at any number of threads.

    Args:
        x: ``[rows, in_features]``; weight: ``[out_features, in_features]``, copied first where its
            last dimension is not contiguous; bias: ``[out_features]`` or None.

    Returns:
        ``[rows, out_features]``.
    """
    return _dispatch.run("linear", (x, weight, bias), x, weight, bias)


def int8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    smoothing: Tensor | None = None,
) -> Tensor:
    """``x weight^T + bias`` with an 8-bit weight and rows of x made 8-bit as they come.

    Row r counts as ``q[r] * s[r]``, with ``s[r]`` its largest magnitude / 127 and q rounded to the
    nearest integer, ties to even; the output is ``(sum of q * weight) * s[r] * scale + bias``, each
    step rounded to float32, the last to x's dtype. The sums are exact integers: a row has the same
    bits alone and among any others, on every instruction set. A row with a value that is not
    finite gives NaN, one whose magnitudes are all below 2**-100 counts as zeros.

    Args:
        x: ``[rows, in_features]``, at most 65536 features.
        weight: int8 ``[out_features, in_features]``, in [-127, 127].
        scale: float32 ``[out_features]``; the weight of feature n is ``weight[n] * scale[n]``.
        bias: ``[out_features]`` of x's dtype, or None.
        smoothing: float32 ``[in_features]`` or None: factors of x's columns, before rounding
            (SmoothQuant, arXiv 2211.10438); the weight has been divided by them.

    Returns:
        ``[rows, out_features]`` of x's dtype.
    """
    tensors = (x, weight, scale, bias, smoothing)
    return _dispatch.run("int8_linear", tensors, *tensors)
