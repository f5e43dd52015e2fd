# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own model
#
# dpad meets a model of yours on three levels: the operators, which need torch only; a class that
# derives from a known family, which is patched as it is; and a new family, which is one small file.

# %%
import torch
from torch import nn

import dpad
from dpad import ops

# %% [markdown]
# ## Operators
#
# They are torch custom ops: float32, bfloat16 and float16, CPU and CUDA, each with a twin in plain
# torch (`dpad.ops.reference`). First the suffix: which of the positions behind a block may be seen?

# %%
suffix = dpad.Suffix("gaussian", window=64, density=0.25, near=8)
print(f"{suffix.expected(96):.1f} of 96 positions are kept on average")

# %% [markdown]
# A block of a bidirectional transformer, written with the operators. Rows of all sequences lie in
# one flat list, keys and values in an arena that is indexed by slot.

# %%
WIDTH, HEADS, HEAD_DIM = 64, 4, 16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.norms = nn.ParameterList(nn.Parameter(torch.ones(WIDTH)) for _ in range(2))

    def forward(self, x, layout, cache):
        """x ``[rows, width]``: the rows of one pass; adds to it in place."""
        slot, position, offsets, start, n_keys, cos, sin = layout
        y = ops.add_rms_norm_(x, None, self.norms[0], 1e-5)
        q, k, v = self.qkv(y).unflatten(-1, (3 * HEADS, HEAD_DIM)).chunk(3, dim=1)
        at = (position, position, slot, offsets, start, cos, sin)
        q = ops.rope_kv_write_(q.contiguous(), k.contiguous(), v.contiguous(), *at, *cache)
        mixed = ops.block_attention(q, *cache, offsets, start, n_keys, HEAD_DIM**-0.5)
        y = ops.add_rms_norm_(x, self.out(mixed.flatten(-2)), self.norms[1], 1e-5)
        return x + self.down(ops.swiglu(self.gate(y), self.up(y)))


# %% [markdown]
# ## torch.compile
#
# The operators have fakes, so a module that uses them is one graph. `inductor` would fuse what lies
# between them; `aot_eager` starts faster and is enough to see it.

# %%
torch.manual_seed(0)
block, rows, capacity = Block(), 40, 64
angles = torch.outer(torch.arange(capacity), 1e4 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM))
layout = (
    torch.arange(rows),  # slot: where keys and values of each row are written
    torch.arange(rows),  # position: what RoPE rotates by
    torch.tensor([0, rows]),  # rows of each sequence
    torch.tensor([0]),  # its first slot in the arena
    torch.tensor([rows]),  # slots that it looks at
    angles.cos(),
    angles.sin(),
)
x = torch.randn(rows, WIDTH)


def run(module):
    cache = [torch.zeros(HEADS, capacity, HEAD_DIM) for _ in range(2)]
    with torch.no_grad():
        return module(x.clone(), layout, cache)


compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
difference = (run(compiled) - run(block)).abs().max()
print(f"compiled against eager: {difference:.1e}")

# %% [markdown]
# And against the same block in plain torch:

# %%
with torch.no_grad():
    y = nn.functional.rms_norm(x, (WIDTH,), block.norms[0], 1e-5)
    q, k, v = block.qkv(y).unflatten(-1, (3 * HEADS, HEAD_DIM)).chunk(3, dim=1)
    cos, sin = (torch.cat((t, t), -1)[:rows, None] for t in layout[-2:])

    def rotate(t):
        first, second = t.chunk(2, -1)
        return t * cos + torch.cat((-second, first), -1) * sin

    q, k, v = (t.transpose(0, 1) for t in (rotate(q), rotate(k), v))
    mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1)
    plain = x + block.out(mixed.flatten(-2))
    y = nn.functional.rms_norm(plain, (WIDTH,), block.norms[1], 1e-5)
    plain = plain + block.down(nn.functional.silu(block.gate(y)) * block.up(y))
print(f"operators against plain torch: {(run(block) - plain).abs().max():.1e}")

# %% [markdown]
# ## A class of your own
#
# dpad recognises a family by the *names* of the classes that a model derives from and by its module
# tree, never by a path or an import. A subclass with a method more, or a fine-tuned checkpoint of
# it, is patched as it is.


# %%
class CountingLLaDA(dpad.models.hf.LLaDAModelLM):
    def answer(self, tokenizer, prompt):
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = self.generate(**inputs)
        return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


_, tokenizer = dpad.demo.load()
model = CountingLLaDA.from_pretrained(dpad.demo.model_folder()).eval()
print(dpad.supports(model))
dpad.patch(model)
problem = dpad.demo.problems(1)[0]
print(
    model.answer(tokenizer, problem.prompt), problem.check(model.answer(tokenizer, problem.prompt))
)

# %% [markdown]
# What it does not know, it refuses, with what it looked for:

# %%
print(dpad.supports(nn.Linear(4, 4)))

# %% [markdown]
# ## torch.compile on a patched model
#
# The patched forward is one graph as well, and gives the same logits.

# %%
ids = tokenizer(problem.prompt, return_tensors="pt")["input_ids"]
with torch.no_grad():
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    print(f"largest difference: {(whole(ids).logits - model(ids).logits).abs().max():.1e}")

# %% [markdown]
# ## A new family
#
# One file in `dpad/models/` says where embedding, layers, norms and head live in the module tree,
# and what the model's tokens are: `dpad/models/llada.py` is a hundred lines. The decoder's whole
# view of a checkpoint is this object:

# %%
adapter = model._dpad_handle.adapter
sizes = (len(adapter.layers), adapter.num_heads, adapter.num_kv_heads, adapter.head_dim)
print(type(adapter).__name__, adapter.family, sizes, "mask", adapter.mask_id, adapter.end_ids)
