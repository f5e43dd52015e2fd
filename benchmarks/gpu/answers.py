"""What the eight measurements were expected to give, and what follows from what they gave.

Expectations are an H100's. Where memory bounds a figure, the limit that decides is scaled by the
bandwidths; the text says so.
"""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.gpu.floor import DATASHEET

H100 = DATASHEET["H100"][0]
LAYERS, SMALL_KERNELS = 32, 4  # of LLaDA-8B, and small kernels in a layer
FLASH, MASKED = "SDPA flash, exact length", "SDPA efficient, dense mask"


class Question(NamedTuple):
    """`judge(cases, scale)` gives figures as lines, whether it holds, and the decision; or None.

    `scale` is H100's bandwidth over the device's.
    """

    number: int
    title: str
    expectation: str
    otherwise: str
    judge: Callable


class Answer(NamedTuple):
    figures: list
    holds: bool | None
    decision: str


def _ms(seconds):
    return f"{1e3 * seconds:.2f} ms"


def _us(seconds):
    return f"{1e6 * seconds:.1f} us"


def launches(cases, scale):
    found = {c["keys"]: c for c in cases}
    lines, inside = [], []
    for keys, low, high in ((1024, 21e-3, 25e-3), (4096, 28e-3, 33e-3)):
        if keys not in found:
            continue
        case = found[keys]
        took = case["seconds"]["plain torch"]
        inside.append(0.8 * low <= took <= 1.2 * high)
        for name, seconds in case["seconds"].items():
            text = f"{keys} keys, {name}: {_ms(seconds)}"
            seen = case["profiled"][name]
            if "unavailable" not in seen:
                text += f"; {seen['kernels']} kernels, {seen['copies']} copies, "
                text += f"{seen['launches']} launches, {seen['waits']} waits, "
                text += f"device busy {_ms(seen['busy'])}"
            lines.append(text)
    if not inside:
        return None
    if all(inside):
        return Answer(lines, True, "the order of the optimisations stays")
    return Answer(lines, False, "rank the optimisations again by these figures")


def products(cases, scale):
    lines, shares = [], {}
    for model in dict.fromkeys(c["model"] for c in cases):
        for rows in sorted({c["rows"] for c in cases}):
            some = [c for c in cases if (c["model"], c["rows"]) == (model, rows)]
            body = [c for c in some if c["product"] != "head"]
            if len(body) < 4:
                continue
            ideal = sum(c["share_of_bandwidth"] * c["seconds"] for c in body)
            share = ideal / sum(c["seconds"] for c in body)
            shares[model, rows] = share
            each = ", ".join(f"{c['product']} {c['share_of_bandwidth']:.0%}" for c in some)
            lines.append(f"{model}, {rows} rows: a layer {share:.0%} of the bandwidth ({each})")
    decisive = [share for (_, rows), share in shares.items() if rows == 32]
    if not decisive:
        return None
    least = min(decisive)
    if least < 0.75:
        return Answer(lines, False, f"{least:.0%} at 32 rows: tuned skinny products move to rank 3")
    return Answer(lines, True, f"{least:.0%} or more at 32 rows: F.linear stays")


def sdpa_from(cases):
    """Query rows from which SDPA on slices of the cache is the faster one at all keys, or None."""
    name, wins = "SDPA flash, slices of the cache", {}
    for case in cases:
        times = case["seconds"]
        faster = name in times and times[name]["median"] < times["dpad"]["median"]
        wins.setdefault(case["sizes"]["queries"], []).append(faster)
    best = None
    for rows in sorted(wins, reverse=True):
        if not all(wins[rows]):
            break
        best = rows
    return best


def attention(cases, scale):
    lines = []
    for case in cases:
        shown = [f"{n} {_us(t['median'])}" for n, t in case["seconds"].items()]
        lines.append(f"{case['name']}: {', '.join(shown)}")
    decision = []
    for kv_heads in sorted({c["sizes"]["kv_heads"] for c in cases}, reverse=True):
        rows = sdpa_from([c for c in cases if c["sizes"]["kv_heads"] == kv_heads])
        text = "at none of the row counts" if rows is None else f"from {rows} query rows"
        decision.append(f"{kv_heads} K/V heads: SDPA {text}")
    step = [c for c in cases if c["sizes"] | {"queries": 32, "keys": 1024} == c["sizes"]]
    step = [c for c in step if c["sizes"]["kv_heads"] == LAYERS and FLASH in c["seconds"]]
    if not step:
        return Answer(lines, None, "; ".join(decision)) if lines else None
    flash, limit = step[0]["seconds"][FLASH]["median"], 8e-6 * scale
    keep = flash > limit
    first = "the own kernel stays" if keep else "SDPA stays at batch 1, the own kernel is dropped"
    text = f"flash {_us(flash)} against the limit of {_us(limit)}: {first}"
    return Answer(lines, keep, "; ".join([text, *decision]))


def gaps(cases, scale):
    lines, found = [], None
    for case in cases:
        if "microseconds" in case:
            found = case["microseconds"]
            shown = [f"{n} {t:.2f} us" for n, t in found.items() if n != "dependent_launch"]
            lines.append(f"{case['name']}: {', '.join(shown)}")
        elif "seconds" in case:
            text = f"{case['name']}: {1e6 * case['seconds']:.2f} us each"
            if "gap" in case:
                text += f", of which kernels {1e6 * case['busy']:.2f}"
            lines.append(text)
    if found is None or not found["dependent_launch"]:
        return Answer(lines, None, "without that launch nothing is decided") if lines else None
    gain = found["small, plain"] - found["small, early"]
    worth = SMALL_KERNELS * LAYERS * gain / 1e3
    holds = gain > 0.45
    text = f"{gain:.2f} us saved per kernel, {worth:.2f} ms of a step: "
    text += "worth doing" if holds else "drop dependent launches"
    return Answer(lines, holds, text)


def sampler(cases, scale):
    lines, decisive = [], None
    for case in cases:
        hot, cold, again = (_us(case[n]) for n in ("hot", "cold", "again"))
        lines.append(f"{case['name']}: cold {cold} (again {again}), hot {hot}")
        if case["rows"] == 32:
            decisive = case["cold"]
    if decisive is None:
        return None
    if decisive <= 8e-6:
        return Answer(lines, True, "rows cut into chunks stay")
    return Answer(lines, False, "one block per row is enough: the chunks gain nothing")


def refresh(cases, scale):
    lines, over = [], []
    for case in cases:
        t = case["seconds"]
        shown = [f"{name} {_ms(seconds)}" for name, seconds in t.items()]
        lines.append(f"{case['keys']} rows: floor {_ms(case['floor'])}, {', '.join(shown)}")
        wanted = {512: 11e-3, 1024: 22e-3, 2048: 44e-3}.get(case["keys"])
        if wanted is not None and t["eager"] > 1.1 * wanted:
            over.append(f"{case['keys']} rows: {_ms(t['eager'] - t['graph'])} over its graph")
    if not any(case["keys"] in (512, 1024, 2048) for case in cases):
        return None
    if not over:
        return Answer(lines, True, "refreshes stay eager")
    return Answer(lines, False, f"find the eager overhead: {'; '.join(over)}")


def narrow(cases, scale):
    lines, best = [], {}
    for model in dict.fromkeys(c["model"] for c in cases):
        some = [c for c in cases if c["model"] == model]
        missing = {k: text for c in some for k, text in c["unavailable"].items()}
        lines += [f"{model}, {kind}: not available, {text}" for kind, text in missing.items()]
        for kind in dict.fromkeys(k for c in some for k in c["seconds"] if k != "bf16"):
            pairs = [(c["seconds"]["bf16"], c["seconds"].get(kind)) for c in some]
            if len(pairs) < 4 or any(t is None for _, t in pairs):
                continue
            gain = sum(t for t, _ in pairs) / sum(t for _, t in pairs)
            best[kind] = max(best.get(kind, 0), gain)
            lines.append(f"{model}, {kind}: {gain:.2f}x bf16 for a layer's products")
    if not best:
        return Answer(lines, None, "no kind ran") if lines else None
    kind = max(best, key=best.get)
    if best[kind] >= 1.4:
        return Answer(lines, True, f"8-bit weights stay an option, by {kind} ({best[kind]:.2f}x)")
    return Answer(lines, False, "drop 8-bit weights")


def mixed(cases, scale):
    lines, saved = [], None
    for case in cases:
        for kind in ("seconds", "graph"):
            t = case[kind]
            apart = t["refresh"] + t["steps"]
            saved = 1 - t["mixed"] / apart
            name = "eager" if kind == "seconds" else kind
            lines.append(f"{name}: mixed {_ms(t['mixed'])}, apart {_ms(apart)}, saved {saved:.0%}")
    if saved is None:
        return None
    if saved >= 0.08:
        return Answer(lines, True, "mixing refreshes with others' steps is worth a scheduler")
    return Answer(lines, False, "drop mixing")


QUESTIONS = (
    Question(
        1,
        "The published cached step, eager, and its launches",
        "21 to 25 ms at 1k keys, 28 to 33 ms at 4k (taken as met within 20 %), about 2000 launches",
        "rank the optimisations again",
        launches,
    ),
    Question(
        2,
        "F.linear at 32, 96 and 128 rows, weights cold, in a graph",
        "70 to 90 % of the datasheet's bandwidth",
        "below 75 % at 32 rows tuned products move up to rank 3",
        products,
    ),
    Question(
        3,
        "SDPA against the own attention kernel, L2 cold",
        "at 32 rows and 1k keys: flash 10 us, masked 13 us, own kernel 8.6 us",
        "if flash takes 8 us or less (scaled by bandwidth): SDPA stays at batch 1",
        attention,
    ),
    Question(
        4,
        "Gap per small kernel in a graph, with and without programmatic dependent launch",
        "2.2 us without, 1.3 us with",
        "below half of that gain dependent launches are dropped",
        gaps,
    ),
    Question(
        5,
        "The sampler's kernel, L2 cold and hot",
        "6 to 8 us for 32 rows",
        "one block per row is enough",
        sampler,
    ),
    Question(
        6,
        "A refresh of 512, 1024 and 2048 rows",
        "11, 22 and 44 ms (taken as met within 10 %)",
        "find the eager overhead",
        refresh,
    ),
    Question(
        7,
        "fp8 and int8 weights at 32 rows",
        "1.4 to 1.8 times as fast as bfloat16",
        "drop 8-bit weights",
        narrow,
    ),
    Question(
        8,
        "A refresh of 1024 rows mixed with three cached steps",
        "24 to 25 ms against 28 ms apart (worth it from 8 % saved)",
        "drop mixing",
        mixed,
    ),
)
NUMBERS = tuple(q.number for q in QUESTIONS)


def answers(cases, limits):
    """Per question a dict of plain values; `holds` None: not decided."""
    scale, found = H100 / limits.bandwidth, []
    for question in QUESTIONS:
        mine = [c for c in cases if c.get("measurement") == question.number]
        good = [c for c in mine if "problem" not in c and "skipped" not in c]
        gone = [f"{c['name']}: {c.get('problem', c.get('skipped'))}" for c in mine if c not in good]
        try:
            answer = question.judge(good, scale) if good else None
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            # An odd record must not cost the figures of all others.
            answer = Answer([], None, f"not decided: {type(error).__name__} {error}")
        answer = answer or Answer([], None, "not measured")
        fields = question._asdict()
        del fields["judge"]
        found.append({**fields, **answer._asdict(), "not_measured": gone})
    return found
