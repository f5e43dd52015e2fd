"""A plain-torch forward of a LLaDA tree over chosen positions and cached K/V, in eager HF style."""

import torch
from torch.nn import functional as F


class PlainLLaDA:
    """Runs a live LLaDA on rows of a canvas: no operator, adapter or cache of dpad's is used.

    The model's own norms and projections are called; keys and values are concatenated or written in
    place, attention is ``scaled_dot_product_attention`` and RoPE is float32 by gathered positions
    (DPad, arXiv 2508.14148, 3.2). K is kept after RoPE: the published code keeps it before and
    rotates the whole prefix again at every step, which is slower and gives the same numbers.
    """

    def __init__(self, model):
        self.parts, config = model.model.transformer, model.model.config
        self.heads, self.size = config.n_heads, config.d_model // config.n_heads
        self.tied, self.scale = config.weight_tying, config.scale_logits and config.d_model**-0.5
        length, device = config.max_sequence_length, self.parts.wte.weight.device
        exponent = torch.arange(0, self.size, 2, dtype=torch.float32, device=device) / self.size
        position = torch.arange(length, dtype=torch.float32, device=device)
        angle = torch.outer(position, 1.0 / (config.rope_theta**exponent))
        angle = torch.cat((angle, angle), dim=-1)
        self.cos, self.sin = angle.cos(), angle.sin()

    def _rotate(self, x, cos, sin):
        wide = x.float()
        low, high = wide.chunk(2, dim=-1)
        return (wide * cos + torch.cat((-high, low), dim=-1) * sin).to(x.dtype)

    def _projected(self, block, x):
        """q, k and v ``[batch, heads, rows, head_dim]``."""
        found = block.q_proj(x), block.k_proj(x), block.v_proj(x)
        return (y.unflatten(-1, (-1, self.size)).transpose(1, 2) for y in found)

    def _attend(self, block, x, cos, sin, past, at):
        q, k, v = self._projected(block, x)
        q, k = self._rotate(q, cos, sin), self._rotate(k, cos, sin)
        if past is not None and at is None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        elif past is not None:
            rows = slice(at, at + k.shape[2])
            past[0][:, :, rows], past[1][:, :, rows] = k, v
            k, v = past
        groups = self.heads // k.shape[1]
        wide = [t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (k, v)]
        out = F.scaled_dot_product_attention(q, *wide)
        return block.attn_out(out.transpose(1, 2).flatten(2)), (k, v)

    def __call__(self, ids, position, past=None, at=None):
        """Hidden states behind the last norm, and K and V of every layer.

        Args:
            ids: int64 ``[batch, rows]``; position: their positions, ``[rows]`` or
                ``[batch, rows]``.
            past: per layer (K, V) ``[batch, kv_heads, keys, head_dim]``, or None.
            at: None puts the rows' K/V behind `past`; a number overwrites `past` from there, in
                place.

        Returns:
            ``[batch, rows, width]``; per layer (K, V) that were attended to.
        """
        cos, sin = (t[position].unsqueeze(-3) for t in (self.cos, self.sin))
        x, present = self.parts.wte(ids), []
        for number, block in enumerate(self.parts.blocks):
            layer = None if past is None else past[number]
            out, seen = self._attend(block, block.attn_norm(x), cos, sin, layer, at)
            x = x + out
            y = block.ff_norm(x)
            x = x + block.ff_out(F.silu(block.ff_proj(y)) * block.up_proj(y))
            present.append(seen)
        return self.parts.ln_f(x), present

    def head(self, hidden):
        """Logits ``[..., vocab]`` of hidden states."""
        weight = self.parts.wte.weight if self.tied else None
        logits = self.parts.ff_out(hidden) if weight is None else F.linear(hidden, weight)
        return logits * self.scale if self.scale else logits


class Published(PlainLLaDA):
    """`PlainLLaDA` with the published cache (arXiv 2505.22618): of K before RoPE, over all
    positions from 0, rotated as a whole at every step; rows are written by an index that `nonzero`
    finds in each layer.
    """

    def __call__(self, ids, position, past=None, at=None):
        if past is not None:
            self.replace = torch.zeros(past[0][0].shape[2], dtype=torch.bool, device=ids.device)
            self.replace[at : at + ids.shape[1]] = True
        return super().__call__(ids, position, past, at)

    def _attend(self, block, x, cos, sin, past, at):
        q, k, v = self._projected(block, x)
        if past is not None:
            index = self.replace.nonzero(as_tuple=True)[0]
            past[0][:, :, index], past[1][:, :, index] = k, v
            k, v = past
        keys = k.shape[2]
        q, turned = self._rotate(q, cos, sin), self._rotate(k, self.cos[:keys], self.sin[:keys])
        out = F.scaled_dot_product_attention(q, turned, v, enable_gqa=self.heads != k.shape[1])
        return block.attn_out(out.transpose(1, 2).flatten(2)), (k, v)
