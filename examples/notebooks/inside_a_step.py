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
# # Inside a step
#
# Three ways to look into a decoding while it runs: a callback after each step, the set of suffix
# positions that a block could see, and the model's hidden states on the canvas as it was.

# %%
# %matplotlib inline
import torch

import dpad

model, tokenizer = dpad.demo.load()
dpad.patch(model)
problem = dpad.demo.problems(4)[2]
inputs = tokenizer(problem.prompt, return_tensors="pt")
start = inputs["input_ids"].shape[1]

# %% [markdown]
# ## A callback
#
# It gets copies of the tensors that it asks for, after every step. Here it notes them; it could
# also change the block (`callback_on_step_end_tensor_outputs`).

# %%
steps = []


def note(model, step, timestep, tensors):
    steps.append({name: value[0] for name, value in tensors.items()})


out = model.generate(
    **inputs,
    max_new_tokens=128,
    steps=32,  # four tokens per step
    callback_on_step_end=note,
    callback_on_step_end_tensor_inputs=["block", "confidence", "kept_suffix"],
    trace=True,
    seed=2,
)
mask_id = dpad.demo.MASK_ID


def show(block):
    special = {mask_id: ".", dpad.demo.END_ID: "|"}
    return "".join(special.get(i) or tokenizer.decode([i]) for i in block.tolist())


for number, step in enumerate(steps):
    print(f"{number:2}: {show(step['block'])}")

# %% [markdown]
# ## The kept set
#
# The suffix is redrawn for every block: near positions are always kept, far ones thin out. The
# callback saw the same positions as the output reports.

# %%
kept = out.kept_suffix[0][0]
assert steps[0]["kept_suffix"].tolist() == kept.tolist()
print(f"{len(kept)} of {128 - 32} suffix positions, counted from the end of the first block:")
print((kept - (start + 32)).tolist())

# %%
dpad.plot.kept_raster(out.trace).figure

# %% [markdown]
# ## Hidden states
#
# The canvas before a step is easy to put together: prompt, block, masks. The model's own forward
# gives the hidden states of every layer; final norm and head turn each into a prediction (the
# "logit lens"). So: in which layer does the token appear that is committed in the end?

# %%
final = out.sequences[0, start : start + 32]
blocks = [torch.full_like(final, mask_id), *(step["block"] for step in steps)]
blocks = blocks[: 1 + next(n for n, block in enumerate(blocks[1:]) if (block != mask_id).all())]
rest = torch.full((96,), mask_id)
tree = model.model.transformer
lens = []
for block in blocks:
    canvas = torch.cat([inputs["input_ids"][0], block, rest])[None]
    with torch.no_grad():
        states = model(canvas, output_hidden_states=True).hidden_states
        states = [tree.ln_f(state) for state in states[:-1]] + [states[-1]]
        guesses = torch.stack([tree.ff_out(state)[0, start : start + 32] for state in states])
    guesses[..., mask_id] = -torch.inf
    still_open = block == mask_id
    lens.append((guesses.argmax(-1) == final)[:, still_open].float().mean(-1))

axes = dpad.plot.new_figure(7, 2.6).add_subplot(xlabel="step", ylabel="layer")
image = axes.imshow(torch.stack(lens, 1), cmap="cividis", aspect="auto", vmin=0, vmax=1)
axes.figure.colorbar(image, label="share of open positions")
axes.set_title("The final token is already the best guess", loc="left")
axes.figure

# %% [markdown]
# Layer 0 is the embedding. What the last layer knows before step 0 is what parallel commits live
# on.

# %% [markdown]
# ## The denoising, moving
#
# Point at a token to see when it was committed and how sure the model was.

# %%
out.trace.with_text(tokenizer).animation(per_second=1.5)
