"""Turns finished cells into tables: accuracy, factors, and the goals that are met or not."""

from tabulate import tabulate

from benchmarks.stats import paired_difference, ratio, wilson

BASELINE = "full-none-all"  # full suffix, no cache, no early stop
CACHES = ("none", "prefix", "dual")
# What -> (goal, cell whose seconds are compared, theirs, ours); {} is the main canvas.
GOALS = {
    "ordinary loop / dpad, batch 1": (10.0, "chain-{}", ("ordinary",), ("dpad, none",)),
    "reference / dpad, batched, end to end": (
        1.5,
        "pair-{}-dropout-none-stop",
        ("reference",),
        ("dpad",),
    ),
    "reference / dpad, cached step, large vocabulary": (
        2.0,
        "large-dropout-dual",
        ("block", "step"),
        ("dpad", "step"),
    ),
}


def bits(text):
    return [c == "1" for c in text]


def percent(values):
    right, n = sum(values), len(values)
    low, high = wilson(right, n)
    return f"{100 * right / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def points(ours, theirs):
    n = min(len(ours), len(theirs))
    difference, low, high = (100 * v for v in paired_difference(ours[:n], theirs[:n]))
    return f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def times(theirs, ours):
    value, low, high = ratio(theirs, ours)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def table(head, rows):
    """A table in Markdown; cells are texts or numbers, as they are."""
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def accuracy_rows(records, prefix, base):
    """One row per arm whose name begins with `prefix`; differences are to `base`, paired."""
    for name, record in records.items():
        if not name.startswith(prefix):
            continue
        result, right = record["result"], bits(record["result"]["right"])
        n = len(right)
        yield [
            record["settings"].get("label", name.removeprefix(prefix)),
            n,
            percent(right),
            "-" if base is None or record is base else points(right, bits(base["result"]["right"])),
            f"{sum(result['forwards']) / n:.2f}",
            f"{result['positions'] / n:.0f}",
            f"{sum(result['seconds']) / n:.4f}",
        ]


ACCURACY_HEAD = (
    "arm",
    "problems",
    "exact % [95 %]",
    "difference in points [95 %]",
    "forwards",
    "positions",
    "seconds",
)


def pair_rows(records):
    for name, record in records.items():
        if record["settings"]["kind"] != "pair":
            continue
        result, batch = record["result"], record["settings"]["batch"]
        ours, theirs = result["seconds"]["dpad"], result["seconds"]["reference"]
        yield [
            name.removeprefix("pair-"),
            f"{sum(ours) / len(ours) / batch:.4f}",
            f"{sum(theirs) / len(theirs) / batch:.4f}",
            times(theirs, ours),
            f"{result['identical']} of {result['rows']}",
        ]


def chain_rows(record):
    """(what was added, seconds, forwards, exact, factor over the line before, over ordinary)."""
    result = record["result"]
    arms, n = result["arms"], result["rows"]
    steps = [("ordinary", None), ("parallel", "ordinary"), ("early stop", "parallel")]
    steps.append(("dropout, none", "early stop"))
    steps += [(f"dropout, {c}", "dropout, none") for c in CACHES[1:]]
    steps += [(f"dpad, {c}", f"dropout, {c}") for c in CACHES]
    for name, before in steps:
        arm = arms[name]
        seconds = arm["seconds"]
        yield [
            label(name),
            f"{sum(seconds) / n:.4f}",
            f"{arm['forwards'] / n:.1f}",
            f"{arm['positions'] / n:.0f}",
            sum(bits(arm["right"])),
            "-" if before is None else times(arms[before]["seconds"], seconds),
            "-" if before is None else times(arms["ordinary"]["seconds"], seconds),
        ]


def label(name):
    """What an arm of the chain adds, and to what."""
    kind, _, cache = name.partition(", ")
    if kind == "dpad":
        return f"kernels (dpad, cache {cache})"
    if kind == "dropout":
        return "dropout (cache none)" if cache == "none" else f"{cache} cache (on dropout)"
    return {"ordinary": "ordinary loop, one token per step"}.get(name, name)


LARGE_HEAD = (
    "suffix and cache",
    "dpad: refresh, cached step, total [ms]",
    "reference, head on all rows: the same",
    "head on the block only: the same",
    "refresh x",
    "step x",
    "total x",
    "identical",
)


def large_rows(records):
    for name, record in records.items():
        if record["settings"]["kind"] != "large":
            continue
        found = record["result"]["seconds"]

        def shown(who, found=found):
            kinds = ("refresh", "step", "total")
            means = (sum(found[who][k]) / len(found[who][k]) for k in kinds)
            return ", ".join(f"{1000 * m:.1f}" for m in means)

        def factors(kind, found=found):
            both = (times(found[w][kind], found["dpad"][kind]) for w in ("all", "block"))
            return " / ".join(both)

        yield [
            name.removeprefix("large-"),
            *(shown(who) for who in ("dpad", "all", "block")),
            *(factors(kind) for kind in ("refresh", "step", "total")),
            f"{record['result']['identical']} of {record['result']['rows']}",
        ]


def goals(records, main):
    """Rows of what the goals ask and what was measured."""
    for text, (goal, name, theirs, ours) in GOALS.items():
        record = records.get(name.format(main))
        if record is None:
            continue
        both = []
        for path in (theirs, ours):
            found = record["result"].get("arms") or record["result"]["seconds"]
            for key in path:
                found = found[key]
            both.append(found["seconds"] if isinstance(found, dict) else found)
        value = ratio(*both)[0]
        yield [text, f">= {goal}", times(*both), "met" if value >= goal else "not met"]


def environment(records):
    """What the cells were measured on; every value that occurs."""
    names = (
        "command",
        "cpu",
        "cores",
        "threads",
        "isa",
        "build",
        "torch",
        "transformers",
        "python",
    )
    rows = []
    for name in (*names, "commit", "changed_files", "date"):
        values = sorted({str(r["machine"].get(name)) for r in records.values()})
        if name == "date":
            values = values[:1] + values[-1:] if len(values) > 1 else values
        rows.append([name.replace("_", " "), "; ".join(values)])
    return table(("measured on", ""), rows)


def summary(records, main):
    """The whole page as Markdown. `records`: cell name -> record, in order."""
    parts = ["# Benchmark results", environment(records)]
    found = list(goals(records, main))
    if found:
        head = ("what", "goal", "measured [95 %]", "")
        parts += [f"## Goals, canvas {main}", table(head, found)]
    canvases = sorted({r["settings"]["canvas"] for r in records.values()})
    for canvas in canvases:
        base = records.get(f"arm-{canvas}-{BASELINE}")
        rows = list(accuracy_rows(records, f"arm-{canvas}-", base))
        if rows:
            parts += [f"## Accuracy and cost, canvas {canvas}", ARMS, table(ACCURACY_HEAD, rows)]
    base = records.get(f"arm-{main}-full-none-stop")
    rows = list(accuracy_rows(records, f"suffix-{main}-", base))
    if rows:
        parts += [f"## Other suffixes, canvas {main}", SUFFIXES, table(ACCURACY_HEAD, rows)]
    for canvas in canvases:
        if f"chain-{canvas}" in records:
            parts += chain_section(records, canvas)
    base = records.get(f"dream-{main}-early-stop")
    rows = list(accuracy_rows(records, f"dream-{main}-", base))
    if rows:
        parts += [f"## Tiny Dream, canvas {main}", DREAM, table(ACCURACY_HEAD, rows)]
    rows = list(pair_rows(records))
    if rows:
        parts += [f"## Kernels, canvas {main}", PAIR, table(PAIR_HEAD, rows)]
    rows = list(large_rows(records))
    if rows:
        parts += ["## Kernels and cache, large vocabulary", LARGE, table(LARGE_HEAD, rows)]
    return "\n\n".join(parts) + "\n"


def chain_section(records, canvas):
    result = records[f"chain-{canvas}"]["result"]
    n, rows = result["rows"], list(chain_rows(records[f"chain-{canvas}"]))
    batched = records.get(f"arm-{canvas}-dropout-none-stop")
    if batched:
        each = sum(batched["result"]["seconds"]) / len(batched["result"]["right"])
        alone, first = (sum(result["arms"][a]["seconds"]) / n for a in ("dpad, none", "ordinary"))
        text = f"batch {batched['settings']['batch']} (dpad, cache none; another run)"
        rows.append([text, f"{each:.4f}", "", "", "", f"{alone / each:.2f}", f"{first / each:.2f}"])
    shares = ", ".join(f"{cache} {same} of {n}" for cache, same in result["identical"].items())
    return [
        f"## One factor at a time, canvas {canvas}, batch 1, {n} problems",
        CHAIN,
        table(CHAIN_HEAD, rows),
        f"Rows of dpad identical to the reference's, by cache: {shares}.",
    ]


CHAIN_HEAD = (
    "added",
    "seconds",
    "forwards",
    "positions",
    "exact",
    "factor [95 %]",
    "over ordinary [95 %]",
)
PAIR_HEAD = ("arm", "dpad s", "reference s", "reference / dpad [95 %]", "identical rows")
ARMS = """Arms are suffix-cache-early stop (`all`: the whole canvas is decoded). Forwards,
positions computed and seconds are per problem, batched. Differences are paired, against
full-none-all at the same canvas, over the problems that both arms solved."""
SUFFIXES = """Early stop on, no cache; differences are to the full suffix with early stop."""
DREAM = """The shipped Dream (row i - 1 predicts position i). Every line adds to the one before,
the caches to the dropout. Differences are to the line with early stop."""
CHAIN = """Every line adds one thing to the line it is measured against; all arms took turns,
problem by problem. Lines up to the caches are plain torch (the reference algorithm), the kernel
lines are dpad with the same kept sets. Threshold 0.9, block 32; figures are per problem."""
PAIR = """The reference algorithm in plain torch against dpad, in turns: same batch, same kept sets,
same decisions. Seconds are per problem."""
LARGE = """Random weights: 6 layers, width 256, vocabulary 126464; batch 1, fixed quota. Times are
medians over passes. Ratios are over the reference with the head on all rows, as published / with
the head on the block only."""
