"""A full refresh against one from the block before on (`refresh="recent"`): answers, rows, time.

    python -m benchmarks.refresh accuracy [--problems 1000] [--out out/refresh.json]
    python -m benchmarks.refresh time [--canvases 256 512 1024] [--width 512]

"accuracy" decodes the task of the shipped models at threshold 0.9 with the default suffix, both
ways on the same problems; the difference is paired, with its interval at 95 %. "time" decodes whole
answers of a random LLaDA with a fixed quota, in turns: equal forwards and commits, so that a ratio
is one of work.
"""

import argparse
import time
from pathlib import Path

import torch

import dpad
from benchmarks.quantize import MID, mid_fields
from benchmarks.report import table
from benchmarks.stats import paired_difference, ratio, wilson
from benchmarks.store import write_json
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

WAYS = {"full": {}, "recent": {"refresh": "recent"}, "recent, full each 4": {
    "refresh": "recent", "refresh_period": 4}}  # fmt: skip
BLOCKS, BATCH = (8, 16, 32), 50
HEAD = ["model", "canvas", "cache", "block", "full, % (95 %)", "positions"]
HEAD += [text for way in list(WAYS)[1:] for text in (f"{way}, points (95 %)", "positions")]


def decoded(model, texts, length, settings):
    """(rows of answers, forwards, positions) of a batch at a time."""
    answers, forwards, positions = [], 0, 0
    for first in range(0, len(texts["input_ids"]), BATCH):
        part = {n: t[first : first + BATCH] for n, t in texts.items()}
        out = dpad.generate(
            model,
            **part,
            max_new_tokens=length,
            seed=first,
            return_dict_in_generate=True,
            **settings,
        )
        answers += list(out.sequences[:, -length:])
        forwards += int(out.forwards.sum())
        positions += out.timings["positions"]
    return answers, forwards, positions


def accuracy(options):
    """Per model, canvas, cache and block length: right answers of each way, and the difference."""
    found = {}
    for name in ("tiny_llada", "tiny_dream"):
        model, tokenizer = dpad.demo.load(name=name)
        problems = dpad.demo.problems(options.problems, seed=1)
        ids = [p.prompt_ids for p in problems]
        texts = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        texts, rows = {n: texts[n] for n in ("input_ids", "attention_mask")}, []
        for canvas in options.canvases:
            for cache in ("prefix", "dual"):
                for block in BLOCKS:
                    cell = {}
                    for way, how in WAYS.items():
                        how = how | {"cache": cache, "block_length": block}
                        how |= {"early_stop": not options.whole, "confidence_threshold": 0.9}
                        answers, forwards, positions = decoded(model, texts, canvas, how)
                        pairs = zip(problems, answers, strict=True)
                        right = [p.check(a) for p, a in pairs]
                        cell[way] = {"right": right, "forwards": forwards, "positions": positions}
                    found[f"{name}, canvas {canvas}, {cache}, block {block}"] = cell
                    rows.append([name, canvas, cache, block, *figures(cell)])
        print(table(HEAD, rows), end="\n\n", flush=True)
    return found


def figures(cell):
    """Accuracy of full refreshes and positions, and of the others the difference and positions."""
    full, n = cell["full"], len(cell["full"]["right"])
    low, high = wilson(sum(full["right"]), n)
    texts = [f"{100 * sum(full['right']) / n:.1f} ({100 * low:.1f} to {100 * high:.1f})"]
    texts.append(f"{full['positions'] / n:.0f}")
    for way in list(WAYS)[1:]:
        other = cell[way]
        middle, low, high = (100 * x for x in paired_difference(other["right"], full["right"]))
        texts.append(f"{middle:+.1f} ({low:+.1f} to {high:+.1f})")
        texts.append(f"{other['positions'] / n:.0f}")
    return texts


def times(options):
    """Per canvas: seconds of whole answers in turns, positions, and the ratio."""
    fields = mid_fields(options.width) | {"n_layers": 4, "max_sequence_length": 4096}
    torch.manual_seed(0)
    model = LLaDAModelLM(LLaDAConfig(**fields)).eval()
    ids, found = torch.randint(0, MID["vocab_size"] - 8, (1, 64)), {}
    for canvas in options.canvases:
        settings = {
            "max_new_tokens": canvas,
            "block_length": options.block,
            "steps": canvas // options.tokens,
            "cache": "dual",
            "suffix": dpad.Suffix("gaussian"),
            "early_stop": False,
            "seed": 0,
            "return_dict_in_generate": True,
        }
        spent, outs = {way: [] for way in ("full", "recent")}, {}
        for number in range(options.rounds):
            for way in sorted(spent, reverse=bool(number % 2)):
                begun = time.process_time()
                outs[way] = dpad.generate(model, ids, **settings, **WAYS[way])
                spent[way].append(time.process_time() - begun)
        assert torch.equal(outs["full"].forwards, outs["recent"].forwards)
        rows = {way: out.timings["positions"] for way, out in outs.items()}
        times, low, high = ratio(spent["full"], spent["recent"])
        found[canvas] = {"seconds": spent, "positions": rows, "ratio": [times, low, high]}
        seconds = {way: sum(s) / len(s) for way, s in spent.items()}
        print(
            f"answer of {canvas}: {int(outs['full'].forwards)} forwards; positions {rows['full']} "
            f"and {rows['recent']} ({rows['full'] / rows['recent']:.1f}x); CPU seconds "
            f"{seconds['full']:.1f} and {seconds['recent']:.1f}: {times:.2f}x [{low:.2f}, "
            f"{high:.2f}]",
            flush=True,
        )
    return found


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("accuracy", "time"))
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--canvases", type=int, nargs="+", default=[256])
    parser.add_argument("--whole", action="store_true", help="no early stop")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=4, help="committed in each step")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    found = (accuracy if options.what == "accuracy" else times)(options)
    if options.out is not None:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
