"""The chart of the README shows what benchmarks/results say, and its figures are the lowest."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import chart

ROOT = Path(__file__).parents[2]
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}


def record(canvas=64, **seconds):
    """A run of the chain with these seconds per arm, two rounds of equal length."""
    arms = {
        "ordinary": 8.0,
        "parallel": 4.0,
        "early stop": 2.0,
        "dropout, none": 1.0,
        "dpad, prefix": 0.5,
    }
    arms.update({name.replace("_", ", "): value for name, value in seconds.items()})
    result = {"rows": 2, "arms": {n: {"seconds": [s / 2, s / 2]} for n, s in arms.items()}}
    return {"settings": {"canvas": canvas}, "result": result}


@pytest.mark.parametrize("theme", chart.THEMES)
def test_the_picture_is_up_to_date(theme):
    runs = {canvas: chart.lowest(records) for canvas, records in chart.chains().items()}
    stored = (chart.PICTURES / f"speed-{theme}.svg").read_text(encoding="utf-8")
    assert stored == chart.draw(runs, theme), "type python -m benchmarks.chart"


def test_factors_multiply_to_the_total():
    assert list(chart.factors(record()).values()) == [2.0, 2.0, 2.0, 2.0]
    assert chart.total(record()) == 16.0


def test_the_run_with_the_lowest_total_is_drawn():
    slow, fast = record(), record(ordinary=80.0)
    assert chart.lowest([fast, slow]) is slow
    assert chart.lowest([slow, fast]) is slow


def test_lengths_are_logarithms():
    drawn = ElementTree.fromstring(
        chart.draw({64: record(), 128: record(128, ordinary=80.0)}, "light")
    )
    bars = [r for r in drawn.iter("{http://www.w3.org/2000/svg}rect") if len(r)]
    widths = [float(r.get("width")) for r in bars]
    assert len(bars) == 8
    assert widths[:4] == pytest.approx([widths[0]] * 4, abs=0.2)
    assert widths[4] / widths[0] == pytest.approx(4.3219, rel=0.01)  # log 20 / log 2
    ends = [float(a.get("x")) + float(a.get("width")) for a in bars[:3]]
    assert ends == pytest.approx([float(b.get("x")) for b in bars[1:4]], abs=0.2)


def test_a_part_that_loses_a_little_moves_the_bar_back():
    """early stop 2, dropout 0.8, the last 2.5: the last segment begins where 8 x 0.4 is."""
    run = record(dropout_none=2.5, dpad_prefix=1.0)
    drawn = ElementTree.fromstring(chart.draw({64: run}, "light"))
    bars = [r for r in drawn.iter("{http://www.w3.org/2000/svg}rect") if len(r)]
    assert len(bars) == 3
    (first, second, last) = [(float(b.get("x")), float(b.get("width"))) for b in bars]
    unit = first[1]  # of a factor of 2
    assert last[0] == pytest.approx(second[0] + second[1] - unit * 0.3219, abs=0.2)
    assert chart.total(run) == pytest.approx(8.0)


@pytest.mark.parametrize("runs", [{}, {64: record(parallel=9.0)}])
def test_what_cannot_be_stacked_is_refused(runs):
    with pytest.raises(ValueError, match=r"no results|parallel commits = 0\.89"):
        chart.draw(runs, "light")


def test_check_tells_a_stale_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chart, "PICTURES", tmp_path)
    assert chart.main(["--check"]) == 1
    assert "speed-dark.svg is out of date" in capsys.readouterr().err
    assert chart.main([]) == 0
    assert chart.main(["--check"]) == 0


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_says_of_how_many_runs_the_chart_is_the_lowest():
    said = NUMBERS[re.search(r"lowest of (\w+)\s+runs", readme())[1]]
    assert min(len(records) for records in chart.chains().values()) >= said


@pytest.mark.parametrize(
    "operator, against",
    [
        ("confidence", ("float64", "float64 soft-max")),
        ("block_attention", ("exact", "SDPA flash, exact length")),
    ],
)
def test_operator_figures_of_the_readme_are_the_lowest(operator, against):
    words = " ".join(readme().split())
    said = float(re.search(rf"`{operator}` is at least ([\d.]+) times as fast", words)[1])
    ratios = [
        ratio["ratio"]
        for path in chart.RESULTS.rglob("operators*.json")
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]
        for ratio in case["ratios"].values()
        if case["case"].startswith(operator) and ratio["expression"] in against
    ]
    assert ratios and said <= min(ratios)
