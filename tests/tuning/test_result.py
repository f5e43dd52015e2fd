"""What a sweep's result says: choice, frontier, table, picture."""

import re

import pytest

import dpad
from dpad import plot
from dpad.tuning import Point, Tuning


def point(right, seconds, positions=100.0, **options):
    """`right` of 100 problems, the first ones."""
    config = dpad.DPadGenerationConfig(**options)
    bools = tuple(i < right for i in range(100))
    return Point(config, bools, forwards=seconds, positions=positions, seconds=seconds)


@pytest.fixture
def result():
    points = [
        point(95, 8.0, 50.0, suffix=dpad.Suffix("all"), cache="none"),
        point(96, 9.0, 40.0, suffix=dpad.Suffix("all"), cache="prefix"),
        point(94, 2.0, 80.0, suffix=dpad.Suffix("gaussian", window=64, near=8), cache="none"),
        point(60, 1.0, 90.0, suffix=dpad.Suffix("none"), cache="none"),
    ]
    return Tuning(points, tolerance=0.02, cost="seconds")


def test_the_cheapest_within_the_tolerance(result):
    all_, prefix, thin, none = result.points
    assert result.best is thin  # 2 of 100 worse than the most accurate
    assert result.cheapest(0.01) is all_
    assert result.cheapest(0.0) is prefix
    assert result.cheapest(1.0) is none
    assert result.cheapest(cost="positions") is prefix


def test_confidence_asks_for_the_whole_interval(result):
    all_, _, thin, _ = result.points
    # Agresti and Min: b = 0.5, c = 2.5, n = 102: -2/102 +- 1.96 sqrt(3 - 4/102) / 102 > -0.053
    assert result.cheapest(0.052, confident=True) is all_
    assert result.cheapest(0.053, confident=True) is thin


def test_of_equally_accurate_points_the_cheapest_is_the_measure():
    points = [point(90, 3.0, cache="none"), point(90, 2.0, cache="dual")]
    assert Tuning(points, 0.0).best is points[1]


def test_the_frontier_holds_what_nothing_beats(result):
    all_, prefix, thin, none = result.points
    assert result.frontier() == [none, thin, all_, prefix]
    assert result.frontier("positions") == [prefix]


def test_the_table_names_what_differs(result):
    lines = repr(result).splitlines()
    heading = r" +cache +suffix +right % +95 % +forwards +positions +seconds"
    assert re.fullmatch(heading, lines[0])
    assert [line[0] for line in lines[1:5]] == [" ", " ", "*", " "]
    assert re.search(
        r"none +gaussian window=64 decay=4 scale=2 near=8 +94\.0 +87\.5 to 97\.2", lines[3]
    )
    assert lines[5].startswith("100 problems") and "within 2 % of" in lines[5]
    html = result._repr_html_()
    assert html.count("<tr>") == 5 and "gaussian window=64" in html


def test_one_point_has_a_table_too():
    assert "94.0" in repr(Tuning([point(94, 2.0)]))


@pytest.mark.parametrize("theme", plot.THEMES)
def test_the_picture_holds_the_points(result, theme, tmp_path):
    ax = result.plot(theme=theme)
    frontier, star, points = ax.lines[:3]
    assert frontier.get_xdata().tolist() == [1.0, 2.0, 8.0, 9.0]
    assert frontier.get_ydata().tolist() == [60.0, 94.0, 95.0, 96.0]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2.0, 94.0)
    assert sorted(points.get_xdata()) == [1.0, 2.0, 8.0, 9.0]
    assert ax.get_xlabel() == "seconds per problem"
    ax.figure.savefig(tmp_path / "pareto.png")
    assert result.plot(cost="positions").get_xlabel() == "positions per problem"


def test_bad_arguments_are_named(result):
    with pytest.raises(ValueError, match="tolerance = -1"):
        result.cheapest(-1)
    with pytest.raises(ValueError, match="cost = 'watts'"):
        result.plot(cost="watts")


def test_labels_of_options_that_are_objects():
    from dpad.tuning.grid import label

    found = dpad.DPadGenerationConfig(refine=0.5, commit="leap").to_dict()
    assert label(found["refine"]) == "ratio=0.5 select_by=snapshot rounds=1"
    assert label(found["commit"]) == "leap threshold=0.9 relaxed=0.75 radius=4"
