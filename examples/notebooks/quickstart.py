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
# # Quickstart
#
# Load a masked-diffusion model, put dpad under it, generate, look at what happened, take dpad off
# again. The model is a LLaDA of 0.9 M parameters that ships with dpad: it knows one task, counting,
# and needs no download. With a real checkpoint only the first cell changes, for example to
# `dpad.models.hf.AutoModel.from_pretrained("GSAI-ML/LLaDA-8B-Instruct", dtype="bfloat16")`.

# %%
# %matplotlib inline
import torch

import dpad

model, tokenizer = dpad.demo.load()
problem = dpad.demo.problems(1)[0]
inputs = tokenizer(problem.prompt, return_tensors="pt")
print(problem.prompt)

# %% [markdown]
# `patch` changes this one instance. The handle shows what runs where, and which defaults hold.

# %%
handle = dpad.patch(model)
handle

# %% [markdown]
# ## Generate
#
# The model's own `generate` now decodes with dpad. First one token per step with the whole suffix
# computed, which is what the published sampler does, then with the model's defaults.

# %%
plain = model.generate(
    **inputs,
    steps=256,
    suffix=dpad.Suffix("all"),
    early_stop=False,
    return_dict_in_generate=True,
)
out = model.generate(**inputs, trace=True, seed=0)
for name, found in (("one token per step", plain), ("defaults", out)):
    forwards, positions = int(found.forwards), found.timings["positions"]
    print(f"{name:>18}: {forwards:3} forwards, {positions:6,} positions computed")

# %% [markdown]
# Both give the right answer. (The prompt is the first part of `sequences`.)

# %%
start = inputs["input_ids"].shape[1]
for found in (plain, out):
    text = tokenizer.decode(found.sequences[0, start:], skip_special_tokens=True)
    print(text, problem.check(text))

# %% [markdown]
# ## Look at it
#
# An output shows itself, with the tokens coloured by the forward that committed them. Point at one
# to see its confidence.

# %%
trace = out.trace.with_text(tokenizer)
out

# %% [markdown]
# The pictures of `dpad.plot` are matplotlib's: what each block could see, and when each position
# was committed.

# %%
dpad.plot.kept_raster(trace).figure

# %%
dpad.plot.reveal_timeline(trace).figure

# %% [markdown]
# ## Off again
#
# The model is as it was, bit for bit.

# %%
ids = plain.sequences
with torch.no_grad():
    patched = model(ids).logits
handle.remove()
with torch.no_grad():
    stock = model(ids).logits
print(handle.active, f"largest difference of the logits: {(patched - stock).abs().max():.1e}")
