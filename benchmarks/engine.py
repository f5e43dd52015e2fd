"""What continuous batching costs and gives, in one run on the shipped model.

    python -m benchmarks.engine [--requests 96] [--rounds 5] [--many 10000]
    python -m benchmarks.engine --before FOLDER      (planning alone, against another checkout)

Engine and batch calls take turns on the same prompts, and their tokens are compared first. Times
are CPU seconds of the process; a ratio is the median over rounds.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import dpad

CANVAS = {"max_new_tokens": 128, "block_length": 32, "cache": "dual", "seed": 0}
SHORT = {"max_new_tokens": 64, "block_length": 32, "early_stop": False, "seed": 0}
LONG = {**SHORT, "max_new_tokens": 900, "suffix": dpad.Suffix("all")}


def timed(function):
    """(CPU seconds, result)."""
    begun = time.process_time()
    result = function()
    return time.process_time() - begun, result


def engine_tokens(model, prompts, rows):
    """Answers of an engine of so many rows, in order."""
    with dpad.Engine(
        model, max_sequences=rows, max_tokens=rows * 256, queue=len(prompts)
    ) as engine:
        outputs = engine.map(prompts, **CANVAS)
        return [out.sequences[0, -CANVAS["max_new_tokens"] :] for out in outputs]


def batch_tokens(model, tokenizer, prompts, rows):
    """The same by `generate`, `rows` at a time; one by one in a call each."""
    if rows == 1:
        calls = enumerate(prompts)
        out = [dpad.generate(model, [ids], row_keys=[key], **CANVAS) for key, ids in calls]
        return [row[0, -CANVAS["max_new_tokens"] :] for row in out]
    texts = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    out = dpad.generate(model, **texts, micro_batch=rows, **CANVAS)
    return list(out[:, -CANVAS["max_new_tokens"] :])


def throughput(model, tokenizer, prompts, rounds):
    """Engine against batch call, with 16 rows and with one."""
    for rows in (16, 1):
        ways = {
            "engine": lambda n=rows: engine_tokens(model, prompts, n),
            "generate": lambda n=rows: batch_tokens(model, tokenizer, prompts, n),
        }
        spent = {name: [] for name in ways}
        for number in range(rounds + 1):
            found = {}
            for name in sorted(ways, reverse=bool(number % 2)):
                seconds, found[name] = timed(ways[name])
                if number:  # the first round warms up
                    spent[name].append(seconds)
            same = sum(map(torch.equal, found["engine"], found["generate"]))
            assert same == len(prompts), f"{same} of {len(prompts)} answers are equal"
        ratios = [a / b for a, b in zip(spent["engine"], spent["generate"], strict=True)]
        medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
        print(
            f"{rows:2} rows, {len(prompts)} requests: engine {medians['engine']:.2f} s, generate "
            f"{medians['generate']:.2f} s of CPU; ratio {statistics.median(ratios):.3f} "
            f"[{min(ratios):.3f}, {max(ratios):.3f}]"
        )


def planned(model, tokenizer, prompts):
    """Milliseconds of the host's plan in a step of `generate(micro_batch=8)`, the mean of all."""
    texts = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    for _ in range(2):  # the first round warms up
        options = {"micro_batch": 8, "return_dict_in_generate": True, **CANVAS}
        seconds = dpad.generate(model, **texts, **options).timings
    return 1e3 * seconds["plan"] / seconds["passes"]


def planning_before(folder, rounds, requests):
    """The same in another checkout, whose modules are built, and in this one, in turns."""
    here = Path(__file__).resolve()
    folders = {"before": Path(folder).resolve(), "now": here.parents[1]}
    code = f"import runpy; runpy.run_path({str(here)!r})['main'](['--planning', '{requests}'])"
    spent = {name: [] for name in folders}
    for number in range(rounds):
        for name in sorted(folders, reverse=bool(number % 2)):
            where = {**os.environ, "PYTHONPATH": str(folders[name])}
            command = [sys.executable, "-c", code]
            run = {"cwd": folders[name], "env": where, "capture_output": True, "text": True}
            spent[name].append(float(subprocess.run(command, check=True, **run).stdout))
    ratios = [now / before for now, before in zip(spent["now"], spent["before"], strict=True)]
    before, now = (statistics.median(spent[name]) for name in folders)
    print(
        f"planning at batch 8: {before:.3f} ms a step before, {now:.3f} now; ratio "
        f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
    )


def memory(model, lengths):
    """K/V bytes of sequences of these lengths, against as many rows of the longest."""
    from dpad.decode.cache import slot_bytes  # other checkouts, see --before, may have neither
    from dpad.models.adapter import find_adapter

    slot = slot_bytes(find_adapter(model))
    own, rows = sum(lengths) * slot, len(lengths) * max(lengths) * slot
    print(
        f"K/V of canvases {lengths}: {own:,} bytes, by rows of the longest {rows:,} "
        f"({rows / own:.2f}x)"
    )


def delays(model, prompts, rounds):
    """Seconds until 15 short requests have ended, with a canvas of 900 beside them and without."""

    def run(long):
        with dpad.Engine(model, max_sequences=16, max_tokens=4096) as engine:
            if long:
                engine.submit(prompts[0], **LONG)
            requests = [engine.submit(p, **SHORT) for p in prompts[1:16]]
            begun = time.perf_counter()
            while any(r.status != "finished" for r in requests):
                engine.step()
            return time.perf_counter() - begun

    run(True)
    ratios = []
    for number in range(rounds):
        found = {long: run(long) for long in ((True, False) if number % 2 else (False, True))}
        ratios.append(found[True] / found[False])
    print(
        f"15 short ones beside a canvas of 900: {statistics.median(ratios):.2f}x "
        f"[{min(ratios):.2f}, {max(ratios):.2f}] of their time alone"
    )


def growth(model, prompts, count):
    """Resident memory after a tenth of the requests and after all of them."""
    resident = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # noqa: E731
    with dpad.Engine(model, max_sequences=16, max_tokens=4096) as engine:
        many = (prompts[n % len(prompts)] for n in range(count))
        for number, _ in enumerate(engine.map(many, **SHORT), 1):
            if number == count // 10:
                before = resident()
    after = resident()
    print(f"{count} requests: {before:.1f} MiB after a tenth, {after:.1f} at the end "
          f"({100 * (after / before - 1):+.2f} %)")  # fmt: skip


def demo_prompts(tokenizer, count):
    return [tokenizer(p.prompt)["input_ids"] for p in dpad.demo.problems(count, seed=0)]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--before", metavar="FOLDER", help="compare planning with this checkout")
    parser.add_argument("--planning", type=int, metavar="REQUESTS", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.before:
        planning_before(chosen.before, chosen.rounds, chosen.requests)
        return
    model, tokenizer = dpad.demo.load()
    if chosen.planning:
        print(planned(model, tokenizer, demo_prompts(tokenizer, chosen.planning)))
        return
    prompts = demo_prompts(tokenizer, chosen.requests)
    throughput(model, tokenizer, prompts, chosen.rounds)
    spent = planned(model, tokenizer, prompts)
    print(f"planning at batch 8: {spent:.3f} ms a step")
    memory(model, [64, 64, 96, 128, 128, 192, 256, 512, 900])
    delays(model, prompts, chosen.rounds)
    growth(model, prompts, chosen.many)


if __name__ == "__main__":
    main()
