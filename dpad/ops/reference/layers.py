"""Twins of the operators that a transformer layer is made of."""

import torch
from torch import Tensor


def suffix_gather(
    canvas: Tensor,
    canvas_row: Tensor,
    q_offsets: Tensor,
    position: Tensor,
    hidden_until: Tensor | None,
    mask_id: int,
) -> Tensor:
    """Twin of `dpad.ops.suffix_gather`."""
    row = torch.repeat_interleave(canvas_row, q_offsets.diff(), output_size=position.shape[0])
    tokens = canvas[row, position]
    if hidden_until is None:
        return tokens
    until = torch.repeat_interleave(hidden_until, q_offsets.diff(), output_size=position.shape[0])
    return torch.where(position < until, mask_id, tokens)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, full_precision: bool) -> Tensor:
    """Half-split RoPE of the first 2 * cos.size(-1) dimensions of x [rows, heads, head_dim]."""
    half = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    low, high, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    if full_precision:
        low, high = low.float(), high.float()
    else:
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    turned = torch.cat((low * cos + -high * sin, high * cos + low * sin), dim=-1)
    return torch.cat((turned.to(x.dtype), rest), dim=-1)


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
    full_precision: bool,
) -> Tensor:
    """Twin of `dpad.ops.rope_kv_write_`."""
    rotated = _rotate(k, cos[position], sin[position], full_precision)
    start = torch.repeat_interleave(kv_start, q_offsets.diff(), output_size=position.shape[0])
    written = slot >= 0
    arena_slot = (start + slot)[written]
    k_cache[:, arena_slot] = rotated[written].transpose(0, 1)
    v_cache[:, arena_slot] = v[written].transpose(0, 1)
    return _rotate(q, cos[q_position], sin[q_position], full_precision)


def block_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    q_offsets: Tensor,
    kv_start: Tensor,
    n_keys: Tensor,
    scale: float,
    key_mask: Tensor | None,
    key_limit: Tensor | None,
) -> Tensor:
    """Twin of `dpad.ops.block_attention`: float32 soft-max, one sequence after the other."""
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    groups = q.shape[1] // k_cache.shape[0]
    bounds = q_offsets.tolist()
    for b, (start, keys) in enumerate(zip(kv_start.tolist(), n_keys.tolist(), strict=True)):
        rows, slots = slice(bounds[b], bounds[b + 1]), slice(start, start + keys)
        key = k_cache[:, slots].float().repeat_interleave(groups, 0)
        value = v_cache[:, slots].float().repeat_interleave(groups, 0)
        scores = torch.einsum("rhd,hkd->hrk", q[rows].float(), key) * scale
        seen = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device)
        if key_mask is not None:
            seen = seen & key_mask[slots]
        if key_limit is not None:
            seen = seen & (torch.arange(keys, device=q.device) < key_limit[rows, None])
        weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1)
        weights = torch.where(seen, weights, 0.0)  # rows without a key are NaN until here
        # A slot that no row may look at can hold anything: 0 * NaN would be NaN.
        value = torch.where(seen.any(0)[:, None], value, 0.0)
        out[rows] = torch.einsum("hrk,hkd->rhd", weights, value).to(q.dtype)
    return out


def add_rms_norm_(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Twin of `dpad.ops.add_rms_norm_`."""
    if delta is not None:
        residual.add_(delta)
    x = residual.float()
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return weight * x.to(residual.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Twin of `dpad.ops.swiglu`."""
    return torch.nn.functional.silu(gate) * up


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Twin of `dpad.ops.linear`."""
    return torch.nn.functional.linear(x, weight, bias)


def int8_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, smoothing: Tensor | None
) -> Tensor:
    """Twin of `dpad.ops.int8_linear`."""
    wide = x.float() if smoothing is None else x.float() * smoothing
    most = wide.abs().amax(1, keepdim=True) if wide.shape[1] else wide.new_zeros(len(wide), 1)
    most = torch.where(most.isfinite(), most, float("nan"))
    counts = most >= 2.0**-100  # not where it is NaN
    row_scale = torch.where(most < 2.0**-100, 0.0, most / 127)
    factor = torch.div(torch.full_like(most, 127), most)
    rows = torch.where(counts, (wide * factor).round(), 0.0)
    out = _integer_products(rows, weight).float() * row_scale * scale
    return (out if bias is None else out + bias.float()).to(x.dtype)


def _integer_products(rows: Tensor, weight: Tensor) -> Tensor:
    """Exact sums: on CUDA torch's own 8-bit product, which takes more than 16 rows."""
    if not rows.is_cuda:
        return rows.double() @ weight.double().T
    missing = max(0, 17 - len(rows))
    rows = torch.nn.functional.pad(rows.to(torch.int8), (0, 0, 0, missing))
    return torch._int_mm(rows, weight.T)[: len(rows) - missing]
