"""The page of the group "beside" of `benchmarks.run`: one table per canvas, and one chart."""

import math
from html import escape

from benchmarks.chart import FONT, THEMES, text
from benchmarks.report import bits, environment, percent, table, times
from benchmarks.stats import wilson

PAGE = "beside.md"
WIDTH, NAMES, BARS, GAP, SCORES = 860, 160, 400, 90, 170
ROW, HEAD, TOP = 19, 30, 44
# Of plain decoding, of published ways, of dpad; Okabe and Ito's.
COLOURS = {"plain": "#999999", "Fast-dLLM": "#E69F00", "DPad": "#009E73", "dpad": "#0072B2"}
INTRODUCTION = """Every way adds one thing to the one before it. Plain decoding is the unpatched
model's own forward, Fast-dLLM and DPad are the reference algorithm in plain torch, the others are
dpad. All decode the whole canvas, and tokens per second are the canvas by the seconds it took; the
last way fills what lies behind the end without computing it. Seconds are medians at batch 1, taken
in turns on the same problems; answers are scored on more problems, in batches, by dpad with the
settings of each way. Blocks of 32, threshold 0.9."""
COLUMNS = ("way", "adds", "tokens/s", "exact % [95 %]", "problems", "forwards", "positions",
           "factor [95 %]", "over plain [95 %]")  # fmt: skip


def write(records, folder):
    """Writes page and pictures into `folder`; their names, none if there is nothing to show."""
    found = rows_of(records)
    if not found:
        return []
    parts = ["# Published ways to decode and dpad's, beside each other", INTRODUCTION]
    parts.append(environment({n: r for n, r in records.items() if n.startswith("beside-")}))
    parts.append("![tokens per second and exact answers](beside-light.svg)")
    for canvas, rows in found.items():
        times_of = records[f"beside-{canvas}-times"]["result"]
        parts += [
            f"## A canvas of {canvas} tokens",
            table(COLUMNS, map(_cells, rows)),
            f"Rows of the published ways that dpad decodes to the same tokens: "
            f"{times_of['equal']} of {times_of['checked']}.",
        ]
    (folder / PAGE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    names = {theme: f"beside-{theme}.svg" for theme in THEMES}
    for theme, name in names.items():
        (folder / name).write_text(draw(found, theme), encoding="utf-8")
    return [PAGE, *names.values()]


def rows_of(records):
    """Canvas -> one dict per way, in order, of the canvases that were measured and scored whole."""
    found = {}
    for record in records.values():
        settings, result = record["settings"], record["result"]
        if settings["kind"] != "beside" or "ways" not in settings:
            continue
        canvas, rows = settings["canvas"], []
        for number, (name, seconds) in enumerate(result["seconds"].items()):
            scored = records.get(f"beside-{canvas}-{number}")
            if scored is None:
                break
            before = list(result["seconds"].values())[max(number - 1, 0)]
            rows.append(_row(name, canvas, seconds, before, result, scored["result"]))
        if len(rows) == len(result["seconds"]):
            found[canvas] = rows
    return dict(sorted(found.items()))


def _row(name, canvas, seconds, before, result, scored):
    right, plain = bits(scored["right"]), result["seconds"]["plain"]
    return {
        "name": name,
        "adds": result["adds"][name],
        "speed": canvas / sorted(seconds)[len(seconds) // 2],
        "right": right,
        "forwards": sum(scored["forwards"]) / len(right),
        "positions": scored["positions"] / len(right),
        "factor": "-" if seconds is plain else times(before, seconds),
        "over plain": "-" if seconds is plain else times(plain, seconds),
    }


def _cells(row):
    speed, right = f"{row['speed']:,.0f}", row["right"]
    cost = f"{row['forwards']:.2f}", f"{row['positions']:.0f}"
    return [row["name"], row["adds"], speed, percent(right), len(right), *cost, row["factor"],
            row["over plain"]]  # fmt: skip


def draw(found, theme):
    """The SVG, as text: a bar of tokens per second on a logarithmic axis beside exact answers with
    their interval, for each way and canvas.
    """
    colours = THEMES[theme]
    every = [row for rows in found.values() for row in rows]
    low = math.floor(min(math.log10(row["speed"]) for row in every))
    decades = 1.02 * (max(math.log10(row["speed"]) for row in every) - low)
    worst = min(wilson(sum(row["right"]), len(row["right"]))[0] for row in every)
    least = math.floor(10 * worst) / 10
    height = TOP + sum(HEAD + ROW * len(rows) for rows in found.values()) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" font-size="12" role="img">',
        f"<title>{escape(description(found))}</title>",
        text(NAMES, 18, "Tokens per second", colours["text"], font_weight=600),
        text(NAMES + BARS + GAP, 18, "Exact answers", colours["text"], font_weight=600),
        *_axes(low, decades, least, height, colours),
    ]
    y = TOP
    for canvas, rows in found.items():
        parts.append(text(8, y + 18, f"Canvas of {canvas}", colours["text"], font_weight=600))
        y += HEAD
        for row in rows:
            parts += _line(row, y, low, decades, least, colours)
            y += ROW
    return "\n".join([*parts, "</svg>"]) + "\n"


def description(found):
    """What the chart says, in a sentence, for those who do not see it."""
    shown = (
        f"{rows[0]['speed']:,.0f} to {max(row['speed'] for row in rows):,.0f} at {canvas}"
        for canvas, rows in found.items()
    )
    return f"Tokens per second from plain decoding to the fastest way: {', '.join(shown)}."


def _axes(low, decades, least, height, colours):
    foot, mark = height - 26, {"text_anchor": "middle", "font_size": 11}
    ticks = [(NAMES + BARS * n / decades, f"{10 ** (low + n):,}") for n in range(int(decades) + 1)]
    middle = (1 + least) / 2
    ticks += [(_place(value, least), f"{100 * value:.0f} %") for value in (least, middle, 1)]
    for x, words in ticks:
        line = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 14}" y2="{foot}" stroke="{colours["line"]}"'
        yield f"<line {line}/>"
        yield text(x, foot + 16, words, colours["faint"], **mark)


def _place(share, least):
    return NAMES + BARS + GAP + SCORES * (share - least) / (1 - least)


def _line(row, y, low, decades, least, colours):
    colour = COLOURS[row["name"].split(",")[0]]
    middle, width = y + ROW / 2, BARS * (math.log10(row["speed"]) - low) / decades
    yield text(NAMES - 8, middle + 4, row["name"], colours["text"], text_anchor="end")
    shape = f'x="{NAMES}" y="{y + 2}" width="{max(width, 1):.1f}" height="{ROW - 4}"'
    yield f'<rect {shape} fill="{colour}"><title>{escape(row["adds"])}</title></rect>'
    speed = f"{row['speed']:,.0f}"
    yield text(NAMES + width + 6, middle + 4, speed, colours["faint"], font_size=11)
    right, count = sum(row["right"]), len(row["right"])
    first, last = (_place(share, least) for share in wilson(right, count))
    line = f'x1="{first:.1f}" x2="{last:.1f}" y1="{middle}" y2="{middle}" stroke="{colour}"'
    yield f'<line {line} stroke-width="2"/>'
    yield f'<circle cx="{_place(right / count, least):.1f}" cy="{middle}" r="4" fill="{colour}"/>'
