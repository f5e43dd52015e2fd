"""The chart of README.md: what each part of a decoding is worth, as a factor of its own.

    python -m benchmarks.chart            writes docs/pictures/speed-light.svg and speed-dark.svg
    python -m benchmarks.chart --check    exit code 1 where they are not what the results say

A bar is one whole run of the group "chain" of `benchmarks.run`: of all runs that are kept in
benchmarks/results, the one with the lowest total. On a logarithmic axis the factors of a run add up
to its total, so the length of a segment is what its part is worth.
"""

import argparse
import json
import math
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"
# Part -> (arm without it, arm with it, colour, colour of the figure on it). Okabe and Ito's.
PARTS = {
    "parallel commits": ("ordinary", "parallel", "#0072B2", "#ffffff"),
    "early stop": ("parallel", "early stop", "#E69F00", "#000000"),
    "suffix dropout": ("early stop", "dropout, none", "#009E73", "#ffffff"),
    "cache and kernels": ("dropout, none", "dpad, prefix", "#CC79A7", "#000000"),
}
THEMES = {
    "light": {"text": "#1f2328", "faint": "#59636e", "line": "#d1d9e0"},
    "dark": {"text": "#f0f6fc", "faint": "#9198a1", "line": "#3d444d"},
}
WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 760, 92, 120, 66, 34, 20
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def chains(results=RESULTS):
    """Canvas length -> records of all runs of its chain, in order of their files."""
    found = {}
    for path in sorted(results.rglob("chain-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(record["settings"]["canvas"], []).append(record)
    return dict(sorted(found.items()))


def factors(record):
    """Part -> how many times faster it makes the arm before it; seconds are summed over rounds."""
    arms = record["result"]["arms"]
    seconds = {name: sum(arm["seconds"]) for name, arm in arms.items()}
    return {part: seconds[before] / seconds[arm] for part, (before, arm, *_) in PARTS.items()}


def total(record):
    """The product of the factors of a run."""
    return math.prod(factors(record).values())


def lowest(records):
    """The run with the lowest total."""
    return min(records, key=total)


def draw(runs, theme):
    """The SVG, as text. `runs`: canvas length -> record; `theme`: a key of `THEMES`.

    Raises:
        ValueError: no runs, or parts that leave a run slower than one token per step.
    """
    if not runs:
        raise ValueError("no results of the group chain: type python -m benchmarks.run")
    for canvas, record in runs.items():
        reached = 1.0
        for part, value in factors(record).items():
            reached *= value
            if reached < 1:
                raise ValueError(f"canvas {canvas}: {part} = {value:.2f}, slower than nothing")
    colours = THEMES[theme]
    decades = 1.02 * max(math.log10(total(record)) for record in runs.values())
    height = TOP + len(runs) * (BAR + GAP) + 32
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" font-size="13" role="img">',
        f"<title>{escape(description(runs))}</title>",
        *_legend(colours),
        *_axis(decades, height, colours),
    ]
    for row, (canvas, record) in enumerate(runs.items()):
        parts += _bar(canvas, record, TOP + row * (BAR + GAP), decades, colours)
    return "\n".join([*parts, "</svg>"]) + "\n"


def description(runs):
    """What the chart says, in a sentence, for those who do not see it."""
    bars = (f"{total(r):,.0f} times at a canvas of {canvas} tokens" for canvas, r in runs.items())
    return f"Faster than one token per step: {', '.join(bars)}."


def text(x, y, words, fill, **more):
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{extra}>{escape(words)}</text>'


def _x(value, decades):
    """Place of a factor on the axis."""
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(value) / decades


def _legend(colours):
    yield text(LEFT, 18, "Times faster than one token per step", colours["text"], font_weight=600)
    x = LEFT
    for part, (_, _, colour, _) in PARTS.items():
        yield f'<rect x="{x}" y="32" width="12" height="12" rx="2" fill="{colour}"/>'
        yield text(x + 18, 43, part, colours["text"])
        x += 36 + 7 * len(part)


def _axis(decades, height, colours):
    foot = height - 32
    for power in range(int(decades) + 1):
        x = _x(10**power, decades)
        line = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{foot}" stroke="{colours["line"]}"'
        yield f"<line {line}/>"
        mark = {"text_anchor": "middle", "font_size": 12}
        yield text(x, foot + 18, f"{10**power:,}x", colours["faint"], **mark)


def _bar(canvas, record, y, decades, colours):
    middle = y + BAR / 2 + 4.5
    yield text(LEFT - 10, middle - 8, "canvas of", colours["faint"], text_anchor="end")
    yield text(LEFT - 10, middle + 8, f"{canvas} tokens", colours["text"], text_anchor="end")
    reached = 1.0
    for part, value in factors(record).items():
        if value < 1:  # what it loses is covered by the next segment
            reached *= value
            continue
        _, _, colour, ink = PARTS[part]
        x, width = _x(reached, decades), _x(value, decades) - LEFT
        shape = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"'
        yield f"<rect {shape}><title>{part}: {value:.2f}</title></rect>"
        if width > 30:
            yield text(x + width / 2, middle, f"{value:.1f}", ink, text_anchor="middle")
        reached *= value
    arms, rounds = record["result"]["arms"], record["result"]["rows"]
    before, after = (sum(arms[name]["seconds"]) / rounds for name in ("ordinary", "dpad, prefix"))
    x = _x(reached, decades) + 8
    yield text(x, middle - 7, f"{reached:,.0f}x", colours["text"], font_weight=600)
    yield text(
        x, middle + 9, f"{before:.2g} s to {1000 * after:.0f} ms", colours["faint"], font_size=12
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args(arguments)
    runs = {canvas: lowest(records) for canvas, records in chains().items()}
    PICTURES.mkdir(parents=True, exist_ok=True)
    stale = []
    for theme in THEMES:
        path, picture = PICTURES / f"speed-{theme}.svg", draw(runs, theme)
        if options.check:
            if not path.exists() or path.read_text(encoding="utf-8") != picture:
                stale.append(path)
        else:
            path.write_text(picture, encoding="utf-8")
            print(path)
    for path in stale:
        print(f"{path} is out of date: type python -m benchmarks.chart", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
