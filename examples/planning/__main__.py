"""Where dropping the suffix hurts: two planning tasks, accuracy against what stays visible.

    python examples/planning                              a quarter of an hour on one core
    python examples/planning --tasks fill --steps 300 --problems 4 --out out/fill_only
    python examples/planning --tasks cipher --train-only --layers 2 --step-tokens 2048

Trains a tiny LLaDA for each task (dpad never touches the training; the cipher is one for
`benchmarks.refresh`, and only trained if it is named) and decodes with the suffix
kept, dropped and thinned: one token per step, so that nothing else is approximated. A model that
stands in --out is not trained again. Writes the tables to stdout and --out/results.json.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from tabulate import tabulate
from tasks import TASKS
from tqdm import tqdm
from training import train

import dpad
from dpad.models.hf import LLaDAModelLM

STEPS = {"fill": 800, "sudoku": 4000, "cipher": 3000}
# Per canvas; those of fill differ in their random draws.
PROBLEMS = {"fill": 16, "sudoku": 500, "cipher": 16}


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tasks", nargs="+", choices=tuple(TASKS), default=["fill", "sudoku"])
    add("--steps", type=int, help=f"of training; default {STEPS}")
    add("--step-tokens", type=int, default=1536, help="tokens of a step, prompts included")
    add("--width", type=int, default=96, help="of the model")
    add("--layers", type=int, default=4, help="of the model")
    add("--problems", type=int, help=f"held-out problems per canvas; default {PROBLEMS}")
    add("--longest", type=int, default=40, help="longest canvas of the fill task")
    add("--train-only", action="store_true", help="models, and no tables")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--out", type=Path, default=Path("out/planning"))
    return parser.parse_args(arguments)


def suffixes(task):
    """Label -> kept suffix: everything, nothing, hard windows, thinned ones; with the last kept."""
    most = max(task.canvases) - task.block  # suffix positions of the first block
    found = {"full suffix": dpad.Suffix("all"), "none": dpad.Suffix("none")}
    for window in (4, 8, 12, 16, 24, 32):
        if window < most:
            found[f"nearest {window}"] = dpad.Suffix("window", window=window)
    found |= {
        "gaussian, k 4, a 2, W 256": dpad.Suffix(),
        "gaussian, k 3, a 2.3, W 16": dpad.Suffix(decay=3.0, scale=2.3, window=16),
        f"uniform, {most // 4} of W {most}": dpad.Suffix("uniform", window=most, count=most // 4),
    }
    for label in ("none", "nearest 8", *(name for name in found if "W" in name)):
        if label in found:
            found[f"{label}, last"] = replace(found[label], keep_last=True)
    return found


def answers(model, task, canvas, rows, suffix, block):
    """Answers ``[rows, canvas]`` to the prompts of `rows`, and positions computed per forward."""
    out = dpad.generate(
        model,
        rows[:, : task.prompt_length],
        max_new_tokens=canvas,
        block_length=block,
        confidence_threshold=1.1,  # one token per step
        suffix=suffix,
        cache="none",
        early_stop=False,
        seed=0,
        return_dict_in_generate=True,
    )
    positions = out.timings["positions"] / int(out.forwards.sum())
    return out.sequences[:, task.prompt_length :], positions


def measure(model, task, suffix, count, block=None):
    """Exact answers in per cent with its standard error, positions, and per canvas its share."""
    exact, positions, first = {}, [], {}
    for canvas in task.canvases:
        rows = task.problems(canvas, count, torch.Generator().manual_seed(1))
        found, computed = answers(model, task, canvas, rows, suffix, block or task.block)
        exact[canvas] = (found == rows[:, task.prompt_length :]).all(1).double().mean().item()
        first[canvas] = found[:, 0].double().mean().item()
        positions.append(computed)
    share = sum(exact.values()) / len(exact)
    return {
        "exact": 100 * share,
        "error": 100 * math.sqrt(share * (1 - share) / (count * len(exact))),
        "positions": sum(positions) / len(positions),
        "by_canvas": exact,
        "first": first,
    }


def table(task, found):
    """Markdown: per suffix what is answered, and what it costs."""
    fill = task.name == "fill"
    longest = max(task.canvases)
    more = ["longest canvas always right", f"planned for a canvas of {longest}"] if fill else []
    head, rows = [task.name, "exact", *more, "positions per forward"], []
    for label, point in found.items():
        cells = [label, f"{point['exact']:.1f} %"]
        if fill:
            right = [c for c, share in point["by_canvas"].items() if share == 1]
            cells += [str(max(right, default="-")), f"{point['first'][longest] + 1:.1f}"]
        cells.append(f"{point['positions']:.1f}")
        rows.append(cells)
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def run(name, options):
    """Trains or loads the model of a task and measures every suffix."""
    task = TASKS[name](longest=options.longest) if name == "fill" else TASKS[name]()
    folder = options.out / name
    if not (folder / "model.safetensors").exists():
        steps = STEPS[name] if options.steps is None else options.steps
        sizes = (options.step_tokens, options.width, options.layers)
        train(task, steps, *sizes, options.seed).save_pretrained(folder)
    if options.train_only:
        return None
    model = LLaDAModelLM.from_pretrained(folder).eval()
    count = PROBLEMS[name] if options.problems is None else options.problems
    found = {}
    for label, suffix in tqdm(suffixes(task).items(), desc=f"scoring: {name}", unit="suffix"):
        found[label] = measure(model, task, suffix, count)
    whole = max(task.canvases)
    found["full suffix, one block"] = measure(model, task, dpad.Suffix("all"), count, whole)
    print(table(task, found), flush=True)
    return found


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {name: run(name, options) for name in options.tasks}
    (options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
