"""Traces and reports as HTML, for notebooks and pages: self-contained, without scripts or links.

Every text that is not this module's own is escaped. Token colours bring their own text colour, so
they read on light and dark pages; everything else takes the page's colours.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpad.generation.output import DPadOutput, Trace

# Sixteen steps of cividis, from dark blue to yellow, and how many of them want white text.
CIVIDIS = (
    "#00224e", "#002e6c", "#1e3a6f", "#35456c", "#47516c", "#575d6d", "#666970", "#757575",
    "#848279", "#948e77", "#a59c74", "#b7a96e", "#c8b866", "#dbc75a", "#eed649", "#fee838",
)  # fmt: skip
_WHITE_UP_TO = 8
Commit = tuple[int, int, float]  # token, forward, confidence
Drafts = Mapping[int, tuple[str, float]]  # position -> text, confidence
_ROWS = 8  # rows of a batch that a representation shows
_RUN = 3  # equal tokens in a row that are still shown one by one
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
_TEXT = f"{_MONO};line-height:1.9;white-space:pre-wrap;overflow-wrap:anywhere"


class Html:
    """A piece of HTML: notebooks show it, `str` gives its text, `save` writes it to a file."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Html({len(self.text)} characters)"

    def _repr_html_(self) -> str:
        return self.text

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a whole page around it."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(_whole(self.text))


def _whole(body: str) -> str:
    style = "body{max-width:60em;margin:2em auto;padding:0 1em;font-family:system-ui,sans-serif}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="color-scheme" content="light dark"><title>dpad</title>'
        f"<style>{style}</style></head>\n<body>{body}</body></html>\n"
    )


def colour(share: float) -> tuple[str, str]:
    """(background, text) of a share from 0 to 1."""
    step = min(int(share * len(CIVIDIS)), len(CIVIDIS) - 1)
    return CIVIDIS[step], "#ffffff" if step < _WHITE_UP_TO else "#000000"


def _committed(trace: "Trace", row: int) -> tuple[dict[int, Commit], int]:
    """Position -> (token, forward, confidence) of a row, and the number of its forwards."""
    found: dict[int, Commit] = {}
    forwards = 0
    for event in trace.events:
        if event["row"] != row:
            continue
        forwards = max(forwards, event["forward"] + 1)
        values = zip(event["positions"], event["tokens"], event["confidence"], strict=True)
        for position, token, confidence in values:
            found[position] = (token, event["forward"], confidence)
    return found, forwards


def _tokens(
    trace: "Trace",
    row: int,
    by_step: bool,
    extra: Callable[[int], str],
    drafts: Drafts | None = None,
) -> Iterator[str]:
    """The row's tokens in order of position, up to the last that was committed, or drafted.

    One span each, or one for a run of equal tokens of one forward. `by_step`: coloured by forward,
    else by confidence; `extra` (forward) -> more attributes; `drafts`: position -> (text,
    confidence) of what may come where nothing is committed.
    """
    drafts = drafts or {}
    found, forwards = _committed(trace, row)
    names = trace.header.get("texts", {})
    prompt = trace.header["prompt_lengths"][row]
    places = range(prompt, max((*found, *drafts), default=prompt - 1) + 1)
    for (token, forward), group in groupby(places, lambda p: found.get(p, (None, None))[:2]):
        run = list(group)
        if token is None and drafts:
            yield from (
                _drafted(position, *drafts.get(position, (chr(183), 0.0))) for position in run
            )
            continue
        if token is None:
            yield f'<span style="opacity:.4" title="never committed">{chr(183) * len(run)}</span>'
            continue
        for part in [run] if len(run) > _RUN else [[position] for position in run]:
            confidence = min(found[position][2] for position in part)
            back, ink = colour(forward / max(forwards - 1, 1) if by_step else confidence)
            text = names.get(str(token), f" {token} ").replace("\n", "\u21b5\n")
            where = (
                f"position {part[0]}" if len(part) == 1 else f"positions {part[0]} to {part[-1]}"
            )
            known = f"{where}, forward {forward + 1}, confidence {confidence:.3f}, id {token}"
            count = f" x {len(part)}" if len(part) > 1 else ""
            yield (
                f'<span style="background:{back};color:{ink};border-radius:2px"'
                f' title="{escape(known)}"{extra(forward)}>{escape(text + count)}</span>'
            )


def _drafted(position: int, text: str, confidence: float) -> str:
    known = f"position {position}, not committed, confidence {confidence:.3f}"
    shown = escape(text.replace("\n", "\u21b5"))
    return f'<span style="opacity:.4;font-style:italic" title="{known}">{shown}</span>'


def draft_html(trace: "Trace", drafts: Drafts) -> str:
    """A trace of one row that still grows: its tokens by forward, and `drafts`, position -> (text,
    confidence), where nothing is committed.
    """
    text = "".join(_tokens(trace, 0, True, lambda forward: "", drafts))
    return f'<div style="{_TEXT}">{text}</div>{_legend("first forward", "last")}'


# What a position of the canvas is to a pass -> (colour, words).
PLACES = {
    "done": (CIVIDIS[7], "finished"),
    "block": (CIVIDIS[2], "current block"),
    "kept": (CIVIDIS[15], "kept suffix"),
    "dropped": ("transparent", "dropped, not computed"),
}


def strip_html(places: Iterable[str]) -> str:
    """A strip with a cell for each position; `places`: keys of `PLACES`, in order."""
    cells, at = [], 0
    for name, group in groupby(places):
        width = len(list(group))
        cells.append(
            f'<rect x="{at}" y="0" width="{width}" height="1" fill="{PLACES[name][0]}">'
            f"<title>{PLACES[name][1]}: {at} to {at + width - 1}</title></rect>"
        )
        at += width
    words = " ".join(
        f'<span style="border:1px solid #8888;background:{back};padding:0 .6em"></span> '
        f"{name}&emsp;"
        for back, name in PLACES.values()
    )
    return (
        f'<svg viewBox="0 0 {max(at, 1)} 1" preserveAspectRatio="none" role="img" '
        'aria-label="positions of the canvas" style="width:100%;height:1.2em;'
        f'border:1px solid #8888">{"".join(cells)}</svg>'
        f'<div style="font-size:85%;opacity:.85">{words}</div>'
    )


def _legend(low: str, high: str) -> str:
    bar = f"linear-gradient(90deg,{','.join(CIVIDIS)})"
    patch = "display:inline-block;width:8em;height:.7em;border-radius:2px;vertical-align:baseline"
    return (
        f'<div style="font-size:85%;opacity:.85">{escape(low)} '
        f'<span style="{patch};background:{bar}"></span> {escape(high)}</div>'
    )


def trace_html(trace: "Trace") -> str:
    """Every row's tokens coloured by the forward that committed them; confidence on hover."""
    rows = range(len(trace.header["prompt_lengths"]))
    parts = []
    for row in rows[:_ROWS]:
        found, forwards = _committed(trace, row)
        head = f"row {row}: {len(found)} tokens in {forwards} forwards"
        text = "".join(_tokens(trace, row, True, lambda forward: ""))
        parts.append(f'<div style="margin:.4em 0">{head}<div style="{_TEXT}">{text}</div></div>')
    if len(rows) > _ROWS:
        parts.append(f"<div>and {len(rows) - _ROWS} more rows</div>")
    return f"<div>{''.join(parts)}{_legend('first forward', 'last')}</div>"


def animation_html(trace: "Trace", row: int, per_second: float) -> str:
    """One row's tokens, appearing as they were committed, coloured by confidence; it repeats.

    Only a style sheet moves it. Readers who ask for reduced motion see the finished text.
    """
    _, forwards = _committed(trace, row)
    text = "".join(_tokens(trace, row, False, lambda f: f' class="f{f}"'))
    name = "d" + blake2b(text.encode(), digest_size=6).hexdigest()  # apart from other animations
    frames = forwards + 1 + max(1, round(1.5 * per_second))
    rules = [f".{name} span{{animation:{frames / per_second:g}s step-end infinite}}"]
    for forward in range(forwards):
        begin = 100 * (forward + 1) / frames
        rules.append(f".{name} .f{forward}{{animation-name:{name}-{forward}}}")
        rules.append(f"@keyframes {name}-{forward}{{0%{{opacity:.08}}{begin:.3f}%{{opacity:1}}}}")
    rules.append(f"@media(prefers-reduced-motion:reduce){{.{name} span{{animation:none}}}}")
    return (
        f'<div><style>{"".join(rules)}</style><div class="{name}" style="{_TEXT}">{text}</div>'
        f"{_legend('confidence 0', '1')}</div>"
    )


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table of texts."""
    cell = "text-align:left;padding:.15em .8em .15em 0"
    lines = ["".join(f'<th style="{cell}">{escape(str(h))}</th>' for h in head)] if head else []
    lines += ["".join(f'<td style="{cell}">{escape(str(v))}</td>' for v in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="border-collapse:collapse">{body}</table>'


def output_html(out: "DPadOutput") -> str:
    """A table of what each row took, what it took together, and the trace if there is one."""
    rows = [
        (row, int(out.forwards[row]), f"{float(out.tokens_per_forward[row]):.2f}", reason)
        for row, reason in enumerate(out.finish_reason[:_ROWS])
    ]
    parts = [table(("row", "forwards", "tokens per forward", "ended by"), rows)]
    if len(out.finish_reason) > _ROWS:
        parts.append(f"<div>and {len(out.finish_reason) - _ROWS} more rows</div>")
    timings = out.timings
    words = f"{timings['total']:.3f} s, {timings['positions']:,} positions, seed {out.seed}"
    parts.append(f"<div>{escape(words)}</div>")
    if out.trace is not None:
        parts.append(trace_html(out.trace))
    return f"<div>{''.join(parts)}</div>"


def report_html(
    title: str, sections: Iterable[tuple[str, Iterable[Iterable[object]]]], notes: Iterable[str]
) -> str:
    """A title, tables with headings, notes: (heading, rows) each."""
    parts = [f"<div><b>{escape(title)}</b></div>"]
    for heading, rows in sections:
        if heading:
            parts.append(f'<div style="margin-top:.5em">{escape(heading)}</div>')
        parts.append(table((), rows))
    parts += [f"<div>note: {escape(note)}</div>" for note in notes]
    return f"<div>{''.join(parts)}</div>"
