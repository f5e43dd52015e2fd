"""dpad's operators in a model of your own, inside ``torch.compile(fullgraph=True)``.

    python examples/ops_in_your_model.py
    python examples/ops_in_your_model.py --backend aot_eager     (no C++ compiler needed)

A small masked-diffusion transformer, written twice: with the operators, and in plain torch. The
operators run three sequences of different lengths as one flat pass, without padding; then a cached
step that computes the rows of the current blocks only; both are compared with the plain model, one
sequence at a time. Nothing here needs a checkpoint, a tokenizer or Transformers.
"""

import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dpad import ops

VOCAB, MASK_ID, WIDTH, HEADS, KV_HEADS, LAYERS = 199, 198, 64, 4, 2, 3
HEAD_DIM, EPS, CAPACITY = WIDTH // HEADS, 1e-5, 64


class Pass(NamedTuple):
    """The rows of one pass, as `dpad.ops.plan_pass` lays them out."""

    slot: torch.Tensor  # [rows], where K and V of each row are written
    position: torch.Tensor  # [rows], original positions: RoPE uses them
    q_offsets: torch.Tensor  # [batch + 1], rows of each sequence
    n_keys: torch.Tensor  # [batch], slots that each sequence looks at
    logit_row: torch.Tensor  # [logit_rows], rows that reach the head
    logit_position: torch.Tensor  # [logit_rows]
    l_offsets: torch.Tensor  # [batch + 1], logit rows of each sequence


class Attention(nn.Module):
    """Grouped-query attention over a K/V cache, one arena of slots for all sequences."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * HEAD_DIM, bias=False)
        self.k = nn.Linear(WIDTH, KV_HEADS * HEAD_DIM, bias=False)
        self.v = nn.Linear(WIDTH, KV_HEADS * HEAD_DIM, bias=False)
        self.o = nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False)

    def heads(self, x):
        return (f(x).unflatten(-1, (-1, HEAD_DIM)) for f in (self.q, self.k, self.v))

    def forward(self, x, rows, kv_start, rope, cache):
        """x [rows, width], the rows of all sequences; writes the cache."""
        q, k, v = self.heads(x)
        at = (rows.position, rows.position, rows.slot, rows.q_offsets, kv_start)
        q = ops.rope_kv_write_(q, k, v, *at, *rope, *cache)
        scale = HEAD_DIM**-0.5
        a = ops.block_attention(q, *cache, rows.q_offsets, kv_start, rows.n_keys, scale)
        return self.o(a.flatten(-2))

    def plain(self, x, rope):
        """The same for the whole of one sequence, x [length, width]."""
        cos, sin = (torch.cat((t, t), -1)[: len(x), None] for t in rope)

        def rotate(y):
            first, second = y.chunk(2, -1)
            return y * cos + torch.cat((-second, first), -1) * sin

        q, k, v = self.heads(x)
        q, k, v = (y.transpose(0, 1)[None] for y in (rotate(q), rotate(k), v))
        a = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)[0]
        return self.o(a.transpose(0, 1).flatten(-2))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.gate = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.norm1 = nn.Parameter(1 + 0.1 * torch.randn(WIDTH))
        self.norm2 = nn.Parameter(1 + 0.1 * torch.randn(WIDTH))

    def forward(self, residual, delta, *attention):
        """Adds `delta` into `residual` in place; returns the next delta."""
        x = ops.add_rms_norm_(residual, delta, self.norm1, EPS)
        x = ops.add_rms_norm_(residual, self.attention(x, *attention), self.norm2, EPS)
        return self.down(ops.swiglu(self.gate(x), self.up(x)))

    def plain(self, x, rope):
        x = x + self.attention.plain(F.rms_norm(x, (WIDTH,), self.norm1, EPS), rope)
        y = F.rms_norm(x, (WIDTH,), self.norm2, EPS)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        frequencies = 1e4 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(CAPACITY), frequencies)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens, rows, kv_start, caches, rng, temperature, suppress):
        """One pass: logits, token and probability of every logit row."""
        residual, delta = self.embed(tokens), None
        for layer, cache in zip(self.layers, caches, strict=True):
            delta = layer(residual, delta, rows, kv_start, (self.cos, self.sin), cache)
        x = ops.add_rms_norm_(residual, delta, self.norm, EPS)[rows.logit_row]
        logits = self.head(x)
        at = (rows.l_offsets, rows.logit_position, rng, temperature)
        token, probability, *_ = ops.confidence(logits, *at, suppress, suppress[:0])
        return logits, token, probability

    def plain(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer.plain(x, (self.cos, self.sin))
        return self.head(F.rms_norm(x, (WIDTH,), self.norm, EPS))


def plain_results(model, canvas, start, end):
    """Logits, token and probability of the blocks, by plain torch: one sequence at a time."""
    blocks = enumerate(zip(start, end, strict=True))
    logits = torch.cat([model.plain(canvas[b, :e])[s:e] for b, (s, e) in blocks])
    allowed = logits.clone()
    allowed[:, MASK_ID] = float("-inf")
    token = allowed.argmax(-1)
    p = torch.softmax(logits.double(), -1)
    return logits, token, p.gather(1, token[:, None])[:, 0]


def compare(title, actual, expected):
    """Prints how far the operators are from plain torch; stops where they differ."""
    difference = (actual[0] - expected[0]).abs().max() / expected[0].abs().max()
    probability = (actual[2] - expected[2]).abs().max()
    same = torch.equal(actual[1], expected[1])
    print(f"{title}: {len(actual[1])} logit rows, tokens {'equal' if same else 'DIFFER'}, "
          f"logits within {difference:.1e}, probabilities within {probability:.1e}")  # fmt: skip
    if not same or difference > 1e-5 or probability > 1e-5:
        raise SystemExit(f"{title}: the operators differ from plain torch")


@torch.no_grad()
def main(arguments=None):
    parser = argparse.ArgumentParser(description="dpad's operators inside torch.compile")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    backend = parser.parse_args(arguments).backend

    torch.manual_seed(0)
    model = Model().eval()
    step = torch.compile(model, fullgraph=True, backend=backend, dynamic=True)

    # Three canvases; the block [start, end) of each is masked, nothing lies behind it.
    start, end = torch.tensor([17, 5, 32]), torch.tensor([25, 13, 40])
    canvas = torch.randint(0, MASK_ID, (3, CAPACITY))
    for row, (s, e) in enumerate(zip(start, end, strict=True)):
        canvas[row, s:e] = MASK_ID
    kv_start = torch.tensor([60, 0, 16])  # each sequence has a range of its own, in any order
    size = (KV_HEADS, 96, HEAD_DIM)
    caches = [(torch.zeros(size), torch.zeros(size)) for _ in range(LAYERS)]
    none = torch.zeros(3, dtype=torch.int64)
    no_suffix = none[:0], none  # kept positions, and how many each sequence has
    rng = torch.zeros(3, 3, dtype=torch.int64)  # seed, row key, number of the forward
    temperature, suppress = torch.zeros(3, dtype=torch.float64), torch.tensor([MASK_ID])

    # The canvas stays as it is, so the cached step has to repeat what the refresh gave.
    titles = {"all": "refresh, every position", "block": "cached step, the blocks only"}
    for scope, title in titles.items():
        scopes = torch.full((3,), ops.SCOPES[scope])
        # From slot 0 on, logit rows for the whole block, and every slot is looked at.
        plan = ops.plan_pass(start, end, *no_suffix, scopes, none, start, none, none)
        (slot, position), logit_rows, (q_offsets, l_offsets), n_keys = plan
        rows = Pass(slot, position, q_offsets, n_keys, *logit_rows, l_offsets)
        tokens = ops.suffix_gather(canvas, torch.arange(3), rows.q_offsets, rows.position)
        actual = step(tokens, rows, kv_start, caches, rng, temperature, suppress)
        compare(title, actual, plain_results(model, canvas, start.tolist(), end.tolist()))
    print(f"compiled with fullgraph=True, backend {backend}, CPU kernels: {ops.cpu_isa()}")


if __name__ == "__main__":
    main()
