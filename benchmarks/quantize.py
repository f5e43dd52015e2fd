"""8-bit products against float32 and bfloat16: what they cost in answers, what they save in time.

python -m benchmarks.quantize accuracy     the shipped models, 1,000 problems each (minutes)
python -m benchmarks.quantize speed        whole decodings of a random LLaDA of 120 M, in turns

Results go to benchmarks/results/<machine>/quantize-<what>.json and are printed.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch

import dpad
from benchmarks import machine, random_models
from benchmarks.stats import wilson
from dpad import demo

RESULTS = Path(__file__).with_name("results")
CANVAS, BATCH, SCORED, SAMPLES = 256, 50, 100, 32
PROMPT, BLOCK, COMMITS = 64, 32, 8


def variants(load):
    """Name -> a fresh model: as it is, in bfloat16, and 8-bit on top of either, also with its
    embedding.
    """
    names = ("float32", "bfloat16", "int8", "int8 + bfloat16", "int8 with embedding + bfloat16")
    models = {name: load() for name in names}
    for name, model in models.items():
        if "bfloat16" in name:
            model.bfloat16()
        if "int8" in name:  # the handle is dropped, and with it the old weights
            dpad.quantize(model, embedding="embedding" in name)
    return models


def decode(model, ids, **settings):
    with dpad.patch(model):
        return model.generate(ids, return_dict_in_generate=True, **settings).sequences


def accuracy(count, early_stop=True):
    """Per shipped model and variant: right answers, answers equal to float32's, likelihood."""
    found = {}
    for name in demo.MODELS:
        problems = demo.problems(count)
        rows = {}
        for kind, model in variants(lambda name=name: demo.load(name=name)[0]).items():
            answers = []
            for first in range(0, count, BATCH):
                some = problems[first : first + BATCH]
                ids = torch.tensor([p.prompt_ids for p in some])
                out = decode(
                    model,
                    ids,
                    max_new_tokens=CANVAS,
                    block_length=BLOCK,
                    confidence_threshold=0.9,
                    seed=0,
                    row_keys=list(range(first, first + len(some))),
                )
                answers += list(out[:, ids.shape[1] :])
            right = sum(p.check(a) for p, a in zip(problems, answers, strict=True))
            rows[kind] = {"right": right, "answers": answers, "nats": nats(model, problems)}
            print(f"{name} {kind}: {right} of {count}", flush=True)
        exact = rows["float32"].pop("answers")
        for row in rows.values():
            own = row.pop("answers", exact)
            row["equal"] = sum(same(a, b) for a, b in zip(own, exact, strict=True))
            row["interval"] = wilson(row["right"], count)
        found[name] = rows
    return {"problems": count, "canvas": CANVAS, "block_length": BLOCK, "models": found}


def same(a, b):
    """Whether two answers, padded behind their ends, are the same tokens."""
    length = max(len(a), len(b))
    pad = lambda x: torch.nn.functional.pad(x, (0, length - len(x)), value=demo.END_ID)  # noqa: E731
    return torch.equal(pad(a), pad(b))


def nats(model, problems):
    """Mean log-likelihood per answer (nats) by the models' own estimate, fixed seed."""
    pairs = [(p.prompt_ids, demo.encode(p.answer)) for p in problems[:SCORED]]
    return float(dpad.loglikelihood(model, pairs, samples=SAMPLES, seed=0).value.mean())


def mid_settings(canvas, cache):
    return {
        "max_new_tokens": canvas - PROMPT,
        "block_length": BLOCK,
        "steps": (canvas - PROMPT) // COMMITS,
        "cache": cache,
        "early_stop": False,
        "seed": 0,
    }


def speed(canvas, cache, rounds, kinds):
    """Whole decodings in turns within each round; the settings, and so the work, are equal."""
    models = {n: m for n, m in variants(random_models.mid_model).items() if n in kinds}
    settings = mid_settings(canvas, cache)
    generator = torch.Generator().manual_seed(1)
    found, equal = {n: [] for n in models}, dict.fromkeys(models, 0)
    handles = [dpad.patch(model) for model in models.values()]
    for number in range(rounds + 1):  # the first is not counted
        ids = torch.randint(0, 8000, (1, PROMPT), generator=generator)
        outputs = {}
        for name in models if number % 2 else list(models)[::-1]:
            begun = time.perf_counter(), time.process_time()
            outputs[name] = models[name].generate(ids, **settings)
            spent = time.perf_counter() - begun[0], time.process_time() - begun[1]
            if number:
                found[name].append(spent)
        if number:
            for name, tokens in outputs.items():
                equal[name] += int((tokens == outputs["float32"])[:, PROMPT:].sum())
    for handle in handles:
        handle.remove()
    new = rounds * (canvas - PROMPT)
    rows = {}
    for name, spent in found.items():
        wall, cpu = zip(*spent, strict=True)
        rows[name] = {"wall": wall, "cpu": cpu, "tokens equal to float32": equal[name] / new}
    for i, clock in enumerate(("wall", "cpu")):
        for other in ("float32", "bfloat16"):
            if other not in found:
                continue
            for name in (n for n in found if n.startswith("int8")):
                pairs = zip(found[other], found[name], strict=True)
                rows[name][f"{clock}: {other} / int8"] = median(a[i] / b[i] for a, b in pairs)
    return {"canvas": canvas, "cache": cache, "model": random_models.MID, "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("accuracy", "speed"))
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--cache", default="dual", choices=("none", "prefix", "dual"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kinds", default="float32,bfloat16,int8,int8 + bfloat16")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    run = {
        "accuracy": lambda: accuracy(options.problems),
        "speed": lambda: speed(
            options.canvas, options.cache, options.rounds, options.kinds.split(",")
        ),
    }
    here = machine.describe()
    result = {**run[options.what](), "machine": here}
    text = json.dumps(result, indent=1, default=list)
    print(text)
    if not options.no_save:
        folder = RESULTS / machine.tag(here)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"quantize-{options.what}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
