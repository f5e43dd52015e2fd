"""What notebooks show of a handle, an output and a trace: complete, and nothing unescaped."""

import re
from html.parser import HTMLParser

import pytest
import torch

import dpad
from dpad.generation.html import CIVIDIS, colour
from dpad.generation.output import TRACE_FORMAT, TRACE_VERSION, Trace

EVIL = '<script>alert("x")</script> & "q" \'s\' </style>'


class Reader(HTMLParser):
    """Text, tags and attributes; fails on tags that do not close in order."""

    VOID = ("meta", "hr", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def spans(self):
        return [a for tag, a in self.tags if tag == "span" and "title" in a]


def make_trace(texts=None):
    """Two rows of a canvas of 8; row 1 leaves a hole at position 4."""
    header = {
        "format": TRACE_FORMAT,
        "version": TRACE_VERSION,
        "seed": 1,
        "prompt_lengths": [1, 3],
        "config": {"max_new_tokens": 8, "block_length": 8},
    }
    if texts:
        header["texts"] = texts
    events = [
        {"row": 0, "forward": 0, "block": 0, "positions": [1, 2], "tokens": [7, 8]},
        {"row": 1, "forward": 0, "block": 0, "positions": [3, 6], "tokens": [9, 7]},
        {"row": 1, "forward": 1, "block": 0, "positions": [5], "tokens": [8]},
        {"row": 1, "forward": 2, "block": 0, "positions": [7, 8, 9, 10], "tokens": [9] * 4},
    ]
    for event in events:
        confidence = [0.25 + 0.1 * event["forward"]] * len(event["positions"])
        event.update(confidence=confidence, kept=None, time=0.0)
    return Trace(header, events)


def test_a_trace_shows_every_token_once_with_what_is_known_of_it():
    page = Reader(make_trace()._repr_html_())
    titles = [a["title"] for a in page.spans]
    assert titles == [
        "position 1, forward 1, confidence 0.250, id 7",
        "position 2, forward 1, confidence 0.250, id 8",
        "position 3, forward 1, confidence 0.250, id 9",
        "never committed",
        "position 5, forward 2, confidence 0.350, id 8",
        "position 6, forward 1, confidence 0.250, id 7",
        "positions 7 to 10, forward 3, confidence 0.450, id 9",
    ]
    text = "".join(page.text)
    assert "row 0: 2 tokens in 1 forwards" in text and " 9  x 4" in text


def test_tokens_are_coloured_by_forward():
    page = Reader(make_trace()._repr_html_())
    styles = [a["style"] for a in page.spans if a["title"] != "never committed"]
    backs = [re.search(r"background:(#\w+)", style)[1] for style in styles]
    first, middle, last = CIVIDIS[0], colour(0.5)[0], CIVIDIS[-1]
    assert backs == [first, first, first, middle, first, last]


@pytest.mark.parametrize("show", [Trace._repr_html_, lambda t: str(t.animation(1))])
def test_nothing_of_a_token_is_markup(show):
    text = show(make_trace({"7": EVIL, "8": "a\nb", "9": EVIL}))
    page = Reader(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert EVIL in "".join(page.text)
    assert "a\u21b5\nb" in "".join(page.text)


def test_texts_come_from_the_tokenizer_and_travel_with_the_file(tmp_path):
    class Tokenizer:
        def decode(self, ids):
            return f"<{ids[0]}>"

    trace = make_trace()
    assert trace.with_text(Tokenizer()) is trace
    trace.save(tmp_path / "t.jsonl")
    again = Trace.load(tmp_path / "t.jsonl")
    assert again.header["texts"] == {"7": "<7>", "8": "<8>", "9": "<9>"}
    assert again._repr_html_() == trace._repr_html_()
    assert "&lt;8&gt;" in trace._repr_html_()


def test_an_animation_has_a_frame_per_forward_and_no_script(tmp_path):
    moving = make_trace().animation(row=1, per_second=2)
    text = str(moving)
    page = Reader(text)
    assert text == moving._repr_html_()
    names = [a.get("class") for a in page.spans]
    assert names == ["f0", None, "f1", "f0", "f2"]
    begins = [float(v) for v in re.findall(r"0%\{opacity:\.08\}([\d.]+)%\{opacity:1\}", text)]
    assert begins == pytest.approx([100 * n / 7 for n in (1, 2, 3)], abs=1e-3)
    assert "animation:3.5s" in text and "prefers-reduced-motion" in text
    moving.save(tmp_path / "a.html")
    whole = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text in whole and Reader(whole)
    assert not re.search(r"<script|src=|href=|url\(", whole)


def test_animations_on_one_page_do_not_move_each_other():
    one, other = (str(make_trace().animation(row)) for row in (0, 1))
    assert not set(re.findall(r"@keyframes (\S+?)-\d", one)) & set(
        re.findall(r"@keyframes (\S+?)-\d", other)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"row": 2},
        {"row": True},
        *({"per_second": v} for v in (0, "x", None, True, float("inf"), 10**400)),
    ],
)
def test_bad_arguments_of_an_animation(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        make_trace().animation(**arguments)


def test_text_can_be_read_on_every_colour():
    for step in range(len(CIVIDIS)):
        back, ink = colour(step / (len(CIVIDIS) - 1))
        parts = [int(back[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        contrast = 1.05 / (light + 0.05) if ink == "#ffffff" else (light + 0.05) / 0.05
        assert contrast >= 4.5, back


def test_an_output_shows_its_rows_and_its_trace(llada, ids):
    out = dpad.generate(llada, ids, max_new_tokens=16, block_length=8, trace=True, seed=3)
    page = Reader(out._repr_html_())
    text = "".join(page.text)
    assert "tokens per forward" in text and "seed 3" in text
    assert f"{out.timings['positions']:,} positions" in text
    covered = sum(len(e["positions"]) for e in out.trace.events)
    assert covered == 32 and "row 1: 16 tokens" in text
    out = dpad.generate(llada, ids, max_new_tokens=16, return_dict_in_generate=True)
    assert "row 0:" not in out._repr_html_()


def test_long_batches_are_cut_short(llada):
    out = dpad.generate(llada, torch.full((10, 3), 5), max_new_tokens=8, trace=True, seed=0)
    assert out._repr_html_().count("and 2 more rows") == 2


def test_a_handle_shows_its_report(llada):
    with dpad.patch(llada) as handle:
        handle.notes.append(EVIL)
        page = Reader(handle._repr_html_())
        text = "".join(page.text)
        plain = repr(handle)
    assert EVIL in text and "script" not in {tag for tag, _ in page.tags}
    for word in ("block_attention", "max_new_tokens", "nothing is approximated"):
        assert word in text and word in plain
