"""The group "beside" with small numbers: what it measures, its page and its chart."""

import json
import re
from xml.etree import ElementTree

import pytest

from benchmarks import beside, beside_page, run
from benchmarks.measure import Tiny

ARGUMENTS = """--groups beside --beside-canvases 32 96 --beside-rounds 2 --beside-problems 4
--plain-problems 2 --batch 4 --threads 1"""
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert run.main([*ARGUMENTS.split(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def records(finished):
    return {p.stem: json.loads(p.read_text()) for p in finished.glob("*/*.json")}


def test_published_ways_are_decoded_to_the_same_tokens_by_dpad(records):
    for canvas in (32, 96):
        result = records[f"beside-{canvas}-times"]["result"]
        assert result["equal"] == result["checked"] == 2 * 2 + 1  # and plain once
        assert all(len(seconds) == 2 for seconds in result["seconds"].values())


def test_each_way_does_what_its_name_says(records):
    """Forwards and positions of a canvas of 96 tokens: three blocks behind 25 of a prompt."""
    names = [way.name for way in beside.ways(Tiny(1, 0).dropout)]
    scored = [records[f"beside-96-{number}"] for number in range(len(names))]
    results = dict(zip(names, (record["result"] for record in scored), strict=True))
    counts = {n: len(r["right"]) for n, r in results.items()}
    assert counts == {n: 2 if n == "plain" else 4 for n in names}
    assert results["plain"]["forwards"] == [96, 96]
    each = {n: r["positions"] / counts[n] for n, r in results.items()}
    assert each["plain"] == 96 * 121
    assert each["Fast-dLLM"] > each["DPad"] == each["dpad, DPad's settings"]
    assert each["dpad, recent refresh"] < each["dpad, near suffix"]
    assert each["dpad, early stop"] < each["dpad, 8-bit"]
    assert [record["settings"]["int8"] for record in scored] == [False] * 6 + [True] * 2
    assert (
        scored[5]["settings"]["refresh"] == "recent" and scored[0]["settings"]["threshold"] is None
    )


def test_the_page_shows_all_of_it(finished, records):
    page = re.sub(" +", " ", (finished / "beside.md").read_text())
    assert page.count("| plain | one token per step |") == 2
    for text in (
        "## A canvas of 32 tokens",
        "## A canvas of 96 tokens",
        "that dpad decodes to the same tokens: 5 of 5",
        "![tokens per second and exact answers](beside-light.svg)",
        "| dpad, 8-bit | 8-bit products |",
    ):
        assert text in page
    rows = beside_page.rows_of(records)
    seconds = records["beside-96-times"]["result"]["seconds"]
    assert rows[96][0]["speed"] == 96 / sorted(seconds["plain"])[1]
    assert rows[96][0]["factor"] == "-" != rows[96][1]["factor"] == rows[96][1]["over plain"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_chart_has_a_bar_and_a_point_for_each(finished, records, theme):
    drawn = ElementTree.parse(finished / f"beside-{theme}.svg").getroot()
    rows = [row for some in beside_page.rows_of(records).values() for row in some]
    bars, points = ([e for e in drawn.iter(f"{SVG}{n}")] for n in ("rect", "circle"))
    assert len(bars) == len(points) == len(rows) == 16
    by_speed = sorted(zip([row["speed"] for row in rows], bars, strict=True), key=lambda p: p[0])
    widths = [float(bar.get("width")) for _, bar in by_speed]
    assert widths == sorted(widths) and widths[-1] <= beside_page.BARS
    right = [sum(row["right"]) / len(row["right"]) for row in rows]
    places = [float(point.get("cx")) for point in points]
    pairs = sorted(zip(right, places, strict=True))
    assert [x for _, x in pairs] == sorted(places)
    assert drawn.find(f"{SVG}title").text.startswith("Tokens per second from plain decoding")


def test_a_canvas_that_is_not_finished_is_left_out(records, tmp_path):
    del records["beside-32-3"]
    assert list(beside_page.rows_of(records)) == [96]
    assert beside_page.write({}, tmp_path) == [] and not list(tmp_path.iterdir())
