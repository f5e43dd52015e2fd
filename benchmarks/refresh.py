"""A full refresh against one from some blocks before on (`refresh="recent"`): answers, rows, time.

    python -m benchmarks.refresh accuracy [--tasks counting dream] [--canvases 256] [--whole]
    python -m benchmarks.refresh accuracy --tasks cipher --problems 300 --ways 1 2 4 1/2 1/4
    python -m benchmarks.refresh time [--canvases 256 512 1024] [--width 512]

"accuracy" decodes each problem at threshold 0.9 with a full refresh and in each of the --ways: "2"
looks two blocks back, "1/4" one, and computes everything anew in each fourth block. Differences are
paired, with their interval at 95 %. The tasks are those of `benchmarks.rules`, and the cipher of
examples/planning, whose models `python examples/planning` leaves in --planning; --canvases are
those of the shipped models. "time" decodes whole answers of a random LLaDA with a fixed quota, in
turns: equal forwards and commits, so that a ratio is one of work.
"""

import argparse
import time
from itertools import groupby, product
from pathlib import Path

import torch

import dpad
from benchmarks import random_models
from benchmarks.exact_tasks import FOLDER, PLANNED, SHIPPED, task_of
from benchmarks.report import percent, points, table
from benchmarks.stats import mean_difference, ratio
from benchmarks.store import write_json

BLOCKS, BATCH = (8, 16, 32), 50  # blocks of the shipped models


def way(text):
    """Options of a way: "2" looks two blocks back, "2/8" too, with a full refresh each eighth."""
    back, _, period = text.partition("/")
    found = {"refresh": "recent", "look_back": int(back)}
    return found | ({"refresh_period": int(period)} if period else {})


def decoded(task, settings, canvas):
    """Of all problems, a batch at a time: whether each is right, the per cent of its tokens before
    the first error (or None), forwards and positions computed.

    Args:
        canvas: length of the answers; None is each problem's own.
    """
    found = {"right": [], "begun": [], "forwards": 0, "positions": 0}
    lengths = [canvas or task.length(n) for n in range(len(task.prompts))]
    for length, numbers in groupby(range(len(lengths)), key=lengths.__getitem__):
        numbers = list(numbers)
        for first in range(0, len(numbers), BATCH):
            part = numbers[first : first + BATCH]
            out = dpad.generate(
                task.model,
                [task.prompts[n] for n in part],
                max_new_tokens=length,
                seed=first,
                return_dict_in_generate=True,
                **task.options | settings,
            )
            answers = out.sequences[:, -length:]
            for number, answer in zip(part, answers, strict=True):
                found["right"].append(task.right(number, answer))
                found["begun"].append(task.begun(number, answer))
            found["forwards"] += int(out.forwards.sum())
            found["positions"] += out.timings["positions"]
    return found


def accuracy(options):
    """Per task, canvas, cache, block length and way: right answers and what they cost."""
    found = {}
    for name in options.tasks:
        task = task_of(name, options)
        shipped = name in SHIPPED
        own = {"early_stop": not options.whole} if shipped else {}
        canvases = options.canvases if shipped else (None,)
        blocks = options.blocks or (BLOCKS if shipped else (task.options["block_length"],))
        for canvas, cache, block in product(canvases, options.caches, blocks):
            settings = {"cache": cache, "block_length": block, "confidence_threshold": 0.9, **own}
            if options.suffix is not None:
                settings["suffix"] = options.suffix
            cell = {"full": decoded(task, settings, canvas)}
            for text in options.ways:
                cell[text] = decoded(task, settings | way(text), canvas)
            place = f"{name}, {canvas or 'own'}, {cache}, {block}"
            rows = [[text, *cells(point, cell["full"])] for text, point in cell.items()]
            print(table([place, *COLUMNS], rows), end="\n\n", flush=True)
            found[place] = cell
    return found


COLUMNS = ("right, % [95 %]", "against full, points", "positions", "forwards")
COLUMNS += ("tokens before the first error, %", "against full, points")


def cells(point, full):
    """What the table says of one way, `full` the same with full refreshes."""
    right, n = point["right"], len(point["right"])
    texts = [percent(right), "" if point is full else points(right, full["right"])]
    texts += [f"{point['positions'] / n:.0f}", f"{point['forwards'] / n:.1f}"]
    if None in point["begun"]:
        return [*texts, "", ""]
    middle, low, high = mean_difference(point["begun"], full["begun"])
    more = "" if point is full else f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"
    return [*texts, f"{sum(point['begun']) / n:.1f}", more]


def times(options):
    """Per canvas: seconds of whole answers in turns, positions, and the ratio."""
    model = random_models.mid_model(options.width, n_layers=4, max_sequence_length=4096)
    torch.manual_seed(0)
    ids, found = torch.randint(0, random_models.MID["vocab_size"] - 8, (1, 64)), {}
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
                outs[way] = dpad.generate(model, ids, refresh=way, **settings)
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
    parser.add_argument("--tasks", nargs="+", choices=(*SHIPPED, *PLANNED), default=list(SHIPPED))
    parser.add_argument("--planning", type=Path, default=FOLDER, help="its models")
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--ways", nargs="+", default=["1", "1/4"], help="look-back[/period]")
    parser.add_argument("--caches", nargs="+", choices=("prefix", "dual"), default=["dual"])
    parser.add_argument("--blocks", type=int, nargs="+", help=f"default: {BLOCKS}, or the task's")
    parser.add_argument("--suffix", help='kind, as "all"; default: the model\'s')
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
