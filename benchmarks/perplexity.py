"""What the samplers draw, counted against the distribution of the task, which is known.

    python -m benchmarks.perplexity [--models tiny_llada tiny_dream tiny_sdar]
        [--problems 20] [--samples 50] [--canvas 64] [--out out/perplexity.json]

"answers": a prompt of the counting task has one right answer. A sample has probability 1 or 0 under
the task, and the share of right ones is the probability that the sampler gives to the answer. The
share's -1/tokens-th power is the perplexity per token of the task under the sampler (at least: the
logarithm of a mean share is no less than the mean logarithm). Beside it stands an upper bound that
needs no samples: `dpad.loglikelihood` is the mean over all orders of filling the canvas, first
hitting draws the order. It is of the whole canvas, end tokens included.

"open": the step of the prompt is hidden, a gap to be filled with the answer. As many answers are
right as there are steps that fit, each with its number of samples, so that entropy, perplexity and
the divergence from the uniform distribution over the right ones are counted too (with N right
samples of k answers it is (k - 1) / 2N too great on average). The models never saw a prompt with a
mask in training: what they make of it is not their task. Block-causal models fill no gaps.

Canvases are one block (of block-causal models: their own blocks), decoded without a cache and with
the whole suffix. Intervals are at 95 %, over problems.
"""

import argparse
import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch

import dpad
from benchmarks.rules import table
from benchmarks.store import write_json
from dpad.demo.task import COUNTS, END, END_ID, MASK, STEPS, solve

SAMPLERS = {"first hitting": {"alg": "first_hitting"}, "ancestral": {"alg": "ancestral"}}
NUCLEI = (1.0, 0.9)
STEP = 5  # position of the step in a prompt


def interval(values, resamples=2000):
    """(mean, low, high) of one value per problem: percentile bootstrap, seeded."""
    values = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(0).integers(values.size, size=(resamples, values.size))
    low, high = np.percentile(values[drawn].mean(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def settings_of(model, canvas):
    """Options that hold for all samplers of a model."""
    causal = model.config.model_type == "sdar"
    found = {"cache": "none", "temperature": 1.0, "early_stop": False}
    return found if causal else {**found, "suffix": "all", "block_length": canvas}


def draw(model, ids, samples, **options):
    """int64 ``[samples, columns]``: what is drawn for one prompt or text with gaps."""
    return dpad.generate(model, [ids], num_return_sequences=samples, **options)


def answers(model, problems, options):
    """Per sampler and nucleus the share of right samples of each problem; and of each problem the
    mean number of tokens and the lower bound of its log-probability.
    """
    canvas, shares = options.canvas, {}
    shared = settings_of(model, canvas) | {"max_new_tokens": canvas}
    for name, sampler in SAMPLERS.items():
        for top_p in NUCLEI:
            right = []
            for number, problem in enumerate(problems):
                how = {**shared, **sampler, "top_p": top_p, "seed": number}
                out = draw(model, problem.prompt_ids, options.samples, **how)
                found = [problem.check(row[len(problem.prompt_ids) :]) for row in out]
                right.append(sum(found) / len(found))
            shares[name, top_p] = right
    texts = [dpad.demo.encode(p.answer) for p in problems]
    padded = [text + [END_ID] * (canvas - len(text)) for text in texts]
    pairs = [(p.prompt_ids, text) for p, text in zip(problems, padded, strict=True)]
    bound = dpad.loglikelihood(model, pairs, samples=options.masks).value.tolist()
    return {"shares": shares, "tokens": [len(text) + 1 for text in texts], "bound": bound}


def answer_rows(name, found):
    """Rows of the table of `answers`."""
    tokens = float(np.mean(found["tokens"]))
    whole = math.exp(-float(np.mean(found["bound"])) / tokens)
    rows = []
    for (sampler, top_p), shares in found["shares"].items():
        mean, low, high = interval(shares)
        least = f"{mean ** (-1 / tokens):.4f}" if mean else "infinite"
        most = f"{whole:.4f}" if (sampler, top_p) == ("first hitting", 1.0) else ""
        share = f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        rows.append([name, sampler, f"{top_p}", share, least, most])
    return rows


class Open:
    """A problem whose step is hidden: `answers`, text -> step, are all that are right."""

    def __init__(self, problem):
        before, after = problem.prompt.split("by ")
        before, after = before + "by ", after[1:]
        self.prompt, self.answers = before + MASK + after, {}
        for step in STEPS:
            try:
                self.answers[solve(f"{before}{step}{after}")] = step
            except ValueError:  # it would need more than four digits
                continue

    def ids(self, canvas):
        """The text with its gaps."""
        return dpad.demo.encode(self.prompt + MASK * canvas)

    def step_of(self, filled):
        """(step whose right answer this is or None, whether that step stands in the prompt)."""
        text, end, _ = dpad.demo.decode(filled[len(dpad.demo.encode(self.prompt)) :]).partition(END)
        step = self.answers.get(text) if end else None
        return step, step is not None and dpad.demo.decode(filled[STEP : STEP + 1]) == str(step)


def spread(counts, possible):
    """Of samples by right answer: (share of the `possible` that were drawn, entropy in nats,
    perplexity, divergence from the uniform distribution over the possible); None without samples.
    """
    total = sum(counts.values())
    if not total:
        return None
    entropy = -sum(n / total * math.log(n / total) for n in counts.values() if n)
    found = sum(n > 0 for n in counts.values())
    return found / possible, entropy, math.exp(entropy), math.log(possible) - entropy


def open_prompts(model, problems, options):
    """Per sampler and nucleus (samples by right answer, how many name the step too, possible
    answers) of each problem.
    """
    shared, found = settings_of(model, options.canvas) | {"infill": True}, {}
    shared["block_length"] += len(problems[0].prompt_ids)
    for name, sampler in SAMPLERS.items():
        for top_p in NUCLEI:
            found[name, top_p] = []
            for number, problem in enumerate(map(Open, problems)):
                how = {**shared, **sampler, "top_p": top_p, "seed": number}
                out = draw(model, problem.ids(options.canvas), options.samples, **how)
                steps = [problem.step_of(row) for row in out]
                right = Counter(step for step, _ in steps if step is not None)
                named = sum(agrees for _, agrees in steps)
                found[name, top_p].append((dict(right), named, len(problem.answers)))
    return found


def open_rows(name, found, samples):
    """Rows of the table of `open_prompts`; spreads are means over problems with a right sample."""
    rows = []
    for (sampler, top_p), by_problem in found.items():
        share = interval([sum(right.values()) / samples for right, _, _ in by_problem])
        named = sum(n for _, n, _ in by_problem) / (samples * len(by_problem))
        known = [s for right, _, k in by_problem if (s := spread(right, k)) is not None]
        means = [f"{np.mean(column):.2f}" for column in zip(*known, strict=True)] or [""] * 4
        cells = "{:.1f} ({:.1f} to {:.1f})".format(*(100 * x for x in share))
        rows.append([name, sampler, f"{top_p}", cells, f"{100 * named:.1f}", *means])
    return rows


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=dpad.demo.MODELS, default=list(dpad.demo.MODELS))
    add("--problems", type=int, default=20)
    add("--samples", type=int, default=50, help="of each problem, sampler and nucleus")
    add("--masks", type=int, default=128, help="drawn for each bound")
    add("--canvas", type=int, default=64, help=f"at least {5 * max(COUNTS) + 1}")
    add("--threads", type=int, default=1)
    add("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    problems, found, rows, gaps = dpad.demo.problems(options.problems, seed=1), {}, [], []
    for name in options.models:
        model, _ = dpad.demo.load(name=name)
        closed, opened = answers(model, problems, options), {}
        rows += answer_rows(name, closed)
        if name != "tiny_sdar":
            opened = open_prompts(model, problems, options)
            gaps += open_rows(name, opened, options.samples)
        closed["shares"] = {f"{n}, {p}": v for (n, p), v in closed["shares"].items()}
        found[name] = {"answers": closed, "open": {f"{n}, {p}": v for (n, p), v in opened.items()}}
    head = ["model", "sampler", "top_p"]
    print(table([*head, "right, %", "perplexity, at least", "at most"], rows), flush=True)
    more = ["right, %", "step named, %", "coverage", "entropy", "perplexity", "divergence"]
    print(table([*head, *more], gaps), flush=True)
    if options.out is not None:
        write_json(options.out, found)
    return found


if __name__ == "__main__":
    main()
