"""The published decoding in plain torch, on the modules of the same model: HF-style, eager.

As Fast-dLLM and DPad run it (arXiv 2505.22618, 2508.14148): K is cached before RoPE and the whole
of it is rotated in float32 at every step, the block's rows are written by an index that `nonzero`
finds in each layer, norms and SwiGLU are chains of tensor operations, the soft-max is float64, and
the host decides what is committed. Attention is scaled_dot_product_attention, called directly. Of
a pass over all rows only the block's reach the head, which is less than the published code does.
"""

import torch
import torch.nn.functional as F

from benchmarks.gpu.models import BLOCK, MASK_ID


class Plain:
    """Passes over a canvas ``[batch, keys]`` with a cache of K before RoPE and of V."""

    def __init__(self, adapter, batch, keys):
        self.adapter, self.keys, self.batch = adapter, keys, batch
        self.caches = [[None, None] for _ in adapter.layers]

    def norm(self, x, norm):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
        return norm.module.weight * wide.to(x.dtype)

    def rotate(self, x, positions):
        """x ``[batch, heads, n, dim]``."""
        cos, sin = (t[positions] for t in self.adapter.rope(self.keys))
        low, high = x.float().chunk(2, -1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(x.dtype)

    def layer(self, layer, cache, x, replace, start):
        """The rows `x` from position `start`; `replace` marks theirs, None: all are computed."""
        normed = self.norm(x, layer.attention_norm)
        q, k, v = (
            project(normed).unflatten(-1, (-1, self.adapter.head_dim)).transpose(1, 2)
            for project in layer.attention.parts()[:3]
        )
        if replace is None:
            cache[:] = k, v
        else:
            index = replace[0].nonzero(as_tuple=True)[0]
            for whole, rows in zip(cache, (k, v), strict=True):
                whole[:, :, index] = rows
        everything = torch.arange(self.keys, device=x.device)
        k = self.rotate(cache[0], everything)
        q = self.rotate(q, everything[start : start + x.shape[1]])
        group = self.adapter.num_heads != self.adapter.num_kv_heads
        a = F.scaled_dot_product_attention(q, k, cache[1], enable_gqa=group)
        x = x + layer.attention.o(a.transpose(1, 2).flatten(2))
        normed, mlp = self.norm(x, layer.mlp_norm), layer.mlp
        return x + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))

    def logits(self, canvas, start, whole):
        """``[batch, block, vocab]`` of the block at `start`; `whole`: all rows are computed."""
        replace, rows = None, slice(0, self.keys)
        if not whole:
            rows = slice(start, start + BLOCK)
            replace = torch.zeros(self.batch, self.keys, dtype=torch.bool, device=canvas.device)
            replace[:, rows] = True
        x = self.adapter.embed(canvas[:, rows])
        for layer, cache in zip(self.adapter.layers, self.caches, strict=True):
            x = self.layer(layer, cache, x, replace, rows.start)
        x = x[:, start - rows.start :][:, :BLOCK]
        return self.adapter.head(self.norm(x, self.adapter.final_norm))


def decide(logits, block, quota=None):
    """Commits in `block` ``[batch, block]`` by threshold 0.9, or `quota` positions per sequence, on
    the host's word; True while a mask is left.
    """
    p = torch.softmax(logits.double(), -1)
    logits[..., MASK_ID] = -torch.inf
    token = logits.argmax(-1)
    score = p.gather(-1, token[..., None])[..., 0]
    score = score.masked_fill(block != MASK_ID, -torch.inf)
    for b in range(len(block)):
        count = quota or max(int((score[b] >= 0.9).sum()), 1)
        chosen = score[b].topk(count).indices
        block[b, chosen] = token[b, chosen]
    return bool((block == MASK_ID).any())


class PlainStep:
    """The same sequences as a `benchmarks.gpu.passes.Step`, with a cache of its own."""

    def __init__(self, step):
        self.step = step
        batch, keys = step.start.shape
        self.plain, self.at = Plain(step.adapter, batch, keys), keys - BLOCK

    def logits(self, whole=False):
        """``[batch * block, vocab]``."""
        return self.plain.logits(self.step.canvas, self.at, whole).flatten(0, 1)

    def __call__(self, whole=False):
        canvas = self.step.canvas
        canvas.copy_(self.step.start)
        return decide(self.plain.logits(canvas, self.at, whole), canvas[:, self.at :])

    def refresh(self):
        """All slots, the block's head rows and commits."""
        return self(whole=True)


def decode(adapter, ids, new_tokens, per_step, commit=decide):
    """Decodes `new_tokens` behind ids ``[batch, length]``, `per_step` of each block in a step, the
    suffix whole and in a dual cache; int64 ``[batch, length + new_tokens]``.

    `commit(logits, block, quota)` writes the block, as `decide` does.
    """
    batch, length = ids.shape
    canvas = torch.cat((ids, ids.new_full((batch, new_tokens), MASK_ID)), dim=1)
    plain = Plain(adapter, batch, length + new_tokens)
    for start in range(length, length + new_tokens, BLOCK):
        block = canvas[:, start : start + BLOCK]
        for step in range(BLOCK // per_step):
            commit(plain.logits(canvas, start, whole=step == 0), block, per_step)
    return canvas
