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
# # Choosing a suffix
#
# How much of the future a model needs depends on the model and on the task. `dpad.tune` measures
# it: it decodes your problems with every configuration of a grid, asks your own checker about the
# answers, and picks the cheapest configuration that is nearly as good as the best one.

# %%
# %matplotlib inline
import dpad

model, tokenizer = dpad.demo.load()
problems = dpad.demo.problems(48)
problems[0]

# %% [markdown]
# A checker is a function of a problem and an answer. Here the answer has to be exactly right; yours
# may run a program's tests or compare a number.


# %%
def check(problem, answer):
    return answer == problem.answer


# %% [markdown]
# The grid: everything kept, nothing kept, and two thinned suffixes, one of which always keeps the
# nearest 16 positions; each with and without a prefix cache. `config` holds what all of them have
# in common.

# %%
grid = {
    "suffix": [
        dpad.Suffix("all"),
        dpad.Suffix("none"),
        dpad.Suffix("gaussian", window=64, density=0.3, near=0),
        dpad.Suffix("gaussian", window=64, density=0.3, near=16),
    ],
    "cache": ["none", "prefix"],
}
common = dpad.DPadGenerationConfig(max_new_tokens=128, confidence_threshold=0.9)
result = dpad.tune(
    model,
    problems,
    check,
    grid,
    config=common,
    tokenizer=tokenizer,
    batch=16,
    tolerance=0.02,
    cost="positions",
    progress=False,
)
result

# %% [markdown]
# Every configuration decoded the same problems. The intervals are wide, since 48 problems are few;
# the star is the fewest positions within the tolerance of the most accurate configuration.

# %%
result.plot().figure

# %% [markdown]
# ## How sure is that?
#
# `confident=True` asks for more: the whole 95 % interval of the *paired* difference to the most
# accurate configuration has to lie within the tolerance. With 48 problems, even two configurations
# that agree in every answer are only known to differ by less than 4 points. So at 0.02 nothing but
# the most accurate configuration itself qualifies (of several, the cheapest); a thousand problems
# could tell more.

# %%
for tolerance in (0.02, 0.05, 0.1):
    sure = result.cheapest(tolerance, confident=True)
    print(tolerance, sure.config.suffix.as_dict(), sure.config.cache, f"{sure.positions:.0f}")

# %% [markdown]
# ## Use it
#
# The choice is a configuration like any other. Saved beside the weights it becomes the model's
# default; `dpad.patch(model, config)` does the same for one session.

# %%
handle = dpad.patch(model, result.best.config)
ids = model.generate(**tokenizer(problems[0].prompt, return_tensors="pt"))
print(tokenizer.decode(ids[0], skip_special_tokens=True))
result.best.config

# %% [markdown]
# For a sweep that takes hours, give `path="tune.jsonl"`: every measured batch is kept there, and a
# call with the same file goes on where it stopped, also with more problems or a larger grid.
