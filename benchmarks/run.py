"""Measures dpad on the shipped model against the ordinary loop and the reference algorithm.

    python -m benchmarks.run                     everything, under 40 minutes on two free cores
    python -m benchmarks.run --problems 100      shorter, wider intervals
    python -m benchmarks.run --groups beside     only published ways beside dpad's: 10 minutes

Each finished cell is a file under benchmarks/results/<machine>/; a run that was interrupted goes on
where it stopped, and ``--fresh`` measures again. The tables are written to benchmarks/results:
summary.md, and beside.md with a chart. They show cells of other groups too, where a file is there.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import beside, beside_page, cells, large, machine, report
from benchmarks.measure import Tiny
from benchmarks.store import Store

RESULTS = Path(__file__).with_name("results")
GROUPS = ("beside", "arm", "pair", "suffix", "chain", "dream", "large")


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--problems", type=int, default=1000, help="held-out problems per arm")
    add("--slow-problems", type=int, default=200, help="the same beyond --main without early stop")
    add("--ordinary-problems", type=int, default=20, help="problems of the ordinary loop")
    add("--pair-rounds", type=int, default=4, help="batches that dpad and the reference share")
    add("--batch", type=int, default=32, help="rows decoded together")
    add("--canvases", type=int, nargs="+", default=[64, 256, 512])
    add("--main", type=int, default=256, help="canvas on which every arm is measured")
    add("--beside-canvases", type=int, nargs="+", default=[64, 128, 256, 512])
    add("--beside-rounds", type=int, default=6, help="problems that all ways decode in turns")
    add("--beside-problems", type=int, default=200, help="problems that each way is scored on")
    add("--plain-problems", type=int, default=40, help="the same with one token per step")
    add("--large-canvas", type=int, default=256, help="canvas of the random-weight model")
    add("--large-rounds", type=int, default=2)
    add("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--fresh", action="store_true", help="measure again what is already there")
    add("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def planned(options):
    """The cells of all groups, in order; the shipped models are loaded here."""
    most = max(options.problems, options.ordinary_problems, options.pair_rounds * options.batch, 2)
    return [
        *beside.cells(options),
        *cells.cells(Tiny(most, options.seed), options),
        *cells.factors(Tiny(most, options.seed, "tiny_dream"), options, "dream"),
        *large.cells(options),
    ]


def measure(found, groups, store, where, fresh):
    """Runs what is not there yet of the groups, with two progress bars; all records by name."""
    records = {}
    with tqdm(total=len(found), unit="cell", position=0) as outer:
        for cell in found:
            outer.set_description(cell.name)
            settings = {**cell.settings, "threads": where["threads"], "isa": where["isa"]}
            asked = cell.settings["kind"] in groups
            record = None if fresh and asked else store.get(cell.name, settings)
            if record is None and asked:
                with tqdm(total=cell.rounds, unit="round", position=1, leave=False) as inner:
                    result = cell.run(inner.update)
                record = store.put(cell.name, settings, where, result)
            if record is not None:
                records[cell.name] = record
            outer.update()
    return records


def main(arguments=None):
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    where = machine.describe()
    store = Store(options.out / machine.tag(where))
    records = measure(planned(options), options.groups, store, where, options.fresh)
    page = report.summary(records, options.main)
    (options.out / "summary.md").write_text(page, encoding="utf-8")
    written = ["summary.md", *beside_page.write(records, options.out)]
    tqdm.write(page)
    tqdm.write(f"written: {', '.join(str(options.out / name) for name in written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
