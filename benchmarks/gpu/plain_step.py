"""The published cached step in plain torch, on the modules of the same model.

As Fast-dLLM and DPad run it (arXiv 2505.22618, 2508.14148): K is cached before RoPE and the whole
of it is rotated in float32 at every step, the block's rows are written by an index that `nonzero`
finds in each layer, norms and SwiGLU are chains of tensor operations, the soft-max is float64, and
the host decides what is committed. Attention is scaled_dot_product_attention, called directly.
"""

import torch
import torch.nn.functional as F


class PlainStep:
    """The same sequences as a `benchmarks.gpu.step.Step`, with a cache of its own."""

    def __init__(self, adapter, step):
        self.adapter, self.step = adapter, step
        batch, self.keys = step.start.shape
        self.block = step.target.numel() // batch
        size = (batch, adapter.num_kv_heads, self.keys, adapter.head_dim)
        new = {"dtype": adapter.dtype, "device": adapter.device}
        self.caches = [[torch.zeros(size, **new) for _ in range(2)] for _ in adapter.layers]
        replace = torch.zeros(batch, self.keys, dtype=torch.bool, device=adapter.device)
        replace[:, -self.block :] = True
        self.replace = replace

    def norm(self, x, norm):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
        return norm.module.weight * wide.to(x.dtype)

    def rotate(self, x, positions):
        """x ``[batch, heads, n, dim]``."""
        cos, sin = (t[positions] for t in self.adapter.rope(self.keys))
        low, high = x.float().chunk(2, -1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(x.dtype)

    def layer(self, layer, cache, x, rows):
        """`rows` slots from the end are computed."""
        batch, adapter = x.shape[0], self.adapter
        normed = self.norm(x, layer.attention_norm)
        q, k, v = (
            project(normed).view(batch, rows, -1, adapter.head_dim).transpose(1, 2)
            for project in (layer.q, layer.k, layer.v)
        )
        if rows == self.keys:
            cache[0], cache[1] = k, v
        else:
            index = self.replace[0].nonzero(as_tuple=True)[0]
            cache[0][:, :, index] = k
            cache[1][:, :, index] = v
        everything = torch.arange(self.keys, device=x.device)
        k = self.rotate(cache[0], everything)
        q = self.rotate(q, everything[-rows:])
        group = adapter.num_heads != adapter.num_kv_heads
        a = F.scaled_dot_product_attention(q, k, cache[1], enable_gqa=group)
        x = x + layer.o(a.transpose(1, 2).reshape(batch, rows, -1))
        normed = self.norm(x, layer.mlp_norm)
        return x + layer.down(F.silu(layer.gate(normed)) * layer.up(normed))

    def hidden(self, rows):
        x = self.adapter.embed(self.step.canvas[:, -rows:])
        for layer, cache in zip(self.adapter.layers, self.caches, strict=True):
            x = self.layer(layer, cache, x, rows)
        return self.norm(x, self.adapter.final_norm)

    def logits(self):
        """``[batch * block, vocab]`` of a cached step."""
        return self.adapter.head(self.hidden(self.block)).flatten(0, 1)

    def decide(self, logits):
        """Threshold commits of every sequence, on the host's word."""
        canvas, batch = self.step.canvas, self.step.canvas.shape[0]
        p = torch.softmax(logits.double(), -1)
        logits[..., self.step.ids] = -torch.inf
        token = logits.argmax(-1)
        score = p.gather(-1, token[:, None])[:, 0].view(batch, -1)
        block = canvas[:, -self.block :]
        masked = block == int(self.step.ids)
        score = score.masked_fill(~masked, -torch.inf)
        for b in range(batch):
            count = max(int((score[b] >= 0.9).sum()), 1)
            chosen = score[b].topk(count).indices
            block[b, chosen] = token.view(batch, -1)[b, chosen]
        return bool((block == int(self.step.ids)).any())

    def refresh(self):
        """All slots, the block's head rows and commits."""
        self.step.canvas.copy_(self.step.start)
        hidden = self.hidden(self.keys)[:, -self.block :]
        return self.decide(self.adapter.head(hidden).flatten(0, 1))

    def __call__(self):
        self.step.canvas.copy_(self.step.start)
        return self.decide(self.logits())
