"""Two decodings beside each other: each is what `dpad.generate` gives, and is shown as it is."""

import re

import pytest
import torch

import dpad
from dpad.generation.api import merge
from dpad.generation.html import PLACES, strip_html
from dpad.serving.race import Side, ordinary, race
from tests.doubles.reference_decoder import ordinary as published

OPTIONS = {"max_new_tokens": 64, "block_length": 16, "seed": 1, "confidence_threshold": 0.99}


@pytest.fixture
def sides(demo, problems):
    model, tokenizer = demo
    ids = problems[0].prompt_ids
    plain = {**ordinary(merge(model, None, None, OPTIONS)), "seed": 1}
    made = [
        Side(name, model, tokenizer, ids, None, options)
        for name, options in (("ordinary decoding", plain), ("dpad", OPTIONS))
    ]
    yield made
    for side in made:
        side.close()


def without_time(trace):
    return [{k: v for k, v in event.items() if k != "time"} for event in trace.events]


def test_each_side_is_what_generate_gives(sides, demo, problems):
    for _ in race(sides, 60):
        pass
    plain = {**ordinary(merge(demo[0], None, None, OPTIONS)), "seed": 1}
    for side, options in zip(sides, (plain, OPTIONS), strict=True):
        out = dpad.generate(demo[0], [problems[0].prompt_ids], trace=True, **options)
        assert side.finished and side.forwards == int(out.forwards[0])
        assert without_time(side.trace) == without_time(out.trace)
        assert {**side.trace.header["config"], "trace": True} == out.trace.header["config"]


def test_the_other_side_is_ordinary_decoding(sides, demo, problems):
    """Its tokens are those of the model's own loop, one at a time."""
    for _ in race(sides, 60):
        pass
    ids = problems[0].prompt_ids
    prompt, mask = torch.tensor([ids]), demo[0].config.mask_token_id
    tokens = published(demo[0], prompt, 64, mask_id=mask, block_length=16).tokens
    events = sides[0].trace.events
    found = {p: t for e in events for p, t in zip(e["positions"], e["tokens"], strict=True)}
    assert [found[p] for p in range(len(ids), len(ids) + 64)] == tokens[0, len(ids) :].tolist()
    assert all(len(event["positions"]) == 1 for event in sides[0].trace.events)


def test_clocks_are_kept_equal(sides):
    """Whoever has used less time has the next turn."""
    before = [0, 0]
    for _ in race(sides, 60):
        turns = [s.forwards + s.finished for s in sides]
        moved = [now > was for now, was in zip(turns, before, strict=True)]
        assert sum(moved) == 1
        before = turns
        if any(s.finished for s in sides):
            break
        a, b = (s.seconds for s in sides)
        assert abs(a - b) < 1.0
    assert min(s.forwards for s in sides) > 1


def test_the_strip_moves_with_the_block(sides):
    side, seen = sides[1], []
    assert side.places() == ["dropped"] * 64
    while not side.finished:
        side.step()
        places = side.places()
        assert len(places) == 64 and set(places) <= set(PLACES)
        if not side.finished:
            assert places.count("block") == 16
            kept = [p for p, name in enumerate(places, 25) if name == "kept"]
            assert kept == [p for p in side._request.sequence.kept_by_block[-1].tolist()]
        if not seen or places != seen[-1]:
            seen.append(places)
    firsts = [places.index("block") for places in seen if "block" in places]
    assert firsts == sorted(firsts) and len(set(firsts)) >= 2
    assert "kept" in seen[0] and "kept" not in seen[-1] and "done" in seen[-1]


def test_open_positions_are_pale_and_committed_ones_have_the_step(sides):
    side = sides[0]
    for _ in range(5):
        side.step()
    html = side.html()
    assert html.count("not committed") == 16 - 5
    assert len(re.findall(r"forward [1-5], confidence", html)) == 5
    while not side.finished:
        side.step()
    assert "not committed" not in side.html() and "finished" in side.html()


def test_a_strip_is_runs_of_cells():
    html = strip_html(["done", "done", "block", "kept", "dropped", "kept"])
    cells = re.findall(r'x="(\d+)" y="0" width="(\d+)"', html)
    assert cells == [("0", "2"), ("2", "1"), ("3", "1"), ("4", "1"), ("5", "1")]
    assert "kept suffix: 5 to 5" in html


def test_what_the_engine_refuses_is_refused_at_once(demo):
    with pytest.raises(ValueError, match="positions"):
        Side("x", *demo, [5] * 2000, None, OPTIONS)
