"""Where the time of a decoding goes, mode by mode: products, attention, sampling, planning.

    python -m benchmarks.profile                              six modes, canvas 512, one thread
    python -m benchmarks.profile --width 256 --canvas 256     a small one

A random LLaDA (120 M parameters at width 1,024) decodes a whole canvas with a fixed quota. Seconds
and the share of refreshes are of a run of its own; the shares of operators are their own time under
torch's profiler, and "Python and the rest" what is left of that run. Results go to
benchmarks/results/<machine>/profile.json and are printed as a table.
"""

import argparse
import time
from collections import Counter

import torch

import dpad
from benchmarks import machine, random_models
from benchmarks.large import DROPOUT
from benchmarks.quantize import BLOCK, COMMITS, PROMPT, RESULTS
from benchmarks.report import table
from benchmarks.store import write_json

# Mode -> options of `generate`; the weights are float32 but for those of `INT8`.
MODES = {
    "no cache": {"cache": "none"},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "dual, recent": {"cache": "dual", "refresh": "recent"},
    "dual, 8-bit": {"cache": "dual"},
    "dual, recent, 8-bit": {"cache": "dual", "refresh": "recent"},
}
INT8 = "8-bit"
PARTS = {
    "linear": ("addmm", "mm", "linear", "int8_linear", "mkldnn_linear", "grouped_linear")
    + ("grouped_swiglu",),
    "attention": ("block_attention", "rope_kv_write_"),
    "norms, SwiGLU": ("add_rms_norm_", "swiglu"),
    "sampling": ("confidence", "unmask_", "suffix_gather", "uniform"),
}
COLUMNS = ("mode", "seconds", "forwards", "positions", "refreshes", *PARTS, "planning",
           "Python and the rest")  # fmt: skip


def settings(canvas, mode):
    """Options of a decoding that commits a fixed number of tokens in each step."""
    new = canvas - PROMPT
    fixed = {"max_new_tokens": new, "block_length": BLOCK, "steps": new // COMMITS, "seed": 0}
    return {**fixed, "suffix": DROPOUT, "early_stop": False, "trace": True, **MODES[mode]}


def share_of_refreshes(events):
    """Time of the passes that begin a block, by that of all."""
    last, spent = 0.0, {True: 0.0, False: 0.0}
    for event in events:
        spent[event["kept"] is not None] += event["time"] - last
        last = event["time"]
    return spent[True] / last


def shares_of(function, parts):
    """(what `function` returns, seconds under torch's profiler, share of each of `parts`).

    Shares are operators' own time, one thread's; `parts`: name -> names of operators, torch's and
    dpad's of one name together.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        begun = time.perf_counter()
        result = function()
        whole = time.perf_counter() - begun
    spent = Counter()
    for operator in recorded.key_averages():
        spent[operator.key.split("::")[-1]] += operator.self_cpu_time_total / 1e6
    return result, whole, {p: sum(spent[n] for n in names) / whole for p, names in parts.items()}


def measure(model, canvas, mode):
    """A row of the table: seconds, counts, and shares that add up to 1 but for "refreshes"."""
    ids = torch.randint(0, 8000, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    options = {**settings(canvas, mode), "return_dict_in_generate": True}
    model.generate(ids, **options)  # what libraries take once
    begun = time.perf_counter()
    out = model.generate(ids, **options)
    seconds = time.perf_counter() - begun
    profiled, whole, shares = shares_of(lambda: model.generate(ids, **options), PARTS)
    shares["planning"] = profiled.timings["plan"] / whole
    return {
        "seconds": seconds,
        "forwards": int(out.forwards.sum()),
        "positions": out.timings["positions"],
        "refreshes": share_of_refreshes(out.trace.events),
        **shares,
        "Python and the rest": 1 - sum(shares.values()),
    }


def cells(mode, row):
    shown = [f"{row['seconds']:.3f}", row["forwards"], row["positions"]]
    return [mode, *shown, *(f"{100 * row[name]:.1f} %" for name in COLUMNS[4:])]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--canvas", type=int, default=512)
    parser.add_argument("--width", type=int, default=random_models.MID["d_model"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--bfloat16", action="store_true", help="all but the 8-bit weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = {}
    for mode in options.modes:
        model = random_models.mid_model(options.width)
        if options.bfloat16:
            model.bfloat16()
        if INT8 in mode:
            dpad.quantize(model)  # the handle is dropped, and with it the old weights
        with dpad.patch(model):
            found[mode] = measure(model, options.canvas, mode)
    print(table(COLUMNS, [cells(mode, row) for mode, row in found.items()]))
    here = machine.describe()
    chosen = {"canvas": options.canvas, "width": options.width, "bfloat16": options.bfloat16}
    if not options.no_save:
        path = RESULTS / machine.tag(here) / "profile.json"
        write_json(path, {**chosen, "rows": found, "machine": here})
    return found


if __name__ == "__main__":
    main()
