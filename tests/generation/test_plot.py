"""Pictures of a trace: the data behind them."""

import pytest
from matplotlib._pylab_helpers import Gcf

from dpad import plot
from dpad.generation.output import TRACE_FORMAT, TRACE_VERSION, Trace

PREFIX, BLOCK, KEPT, DROPPED, AFTER = range(5)


def event(row, forward, block, positions, kept=None):
    confidence = [0.5 + 0.01 * p for p in positions]
    values = {"row": row, "forward": forward, "block": block, "positions": positions}
    return {**values, "tokens": positions, "confidence": confidence, "kept": kept, "time": 0.1}


@pytest.fixture
def trace():
    """Two rows; row 1: prompt of 3, canvas of 10 in blocks of 4, ended after its second block."""
    header = {
        "format": TRACE_FORMAT,
        "version": TRACE_VERSION,
        "seed": 1,
        "prompt_lengths": [1, 3],
        "config": {"max_new_tokens": 10, "block_length": 4},
    }
    events = [
        event(0, 0, 0, [1, 2, 3, 4], kept=[]),
        event(1, 0, 0, [3, 5], kept=[7, 12]),
        event(1, 1, 0, [4, 6]),
        event(1, 2, 1, [7, 8, 9, 10], kept=[11]),
    ]
    return Trace(header, events)


def test_kept_raster(trace):
    ax = plot.kept_raster(trace, row=1)
    assert ax.images[0].get_array().tolist() == [
        [PREFIX] * 3 + [BLOCK] * 4 + [KEPT] + [DROPPED] * 4 + [KEPT],
        [PREFIX] * 7 + [BLOCK] * 4 + [KEPT, DROPPED],
        [AFTER] * 13,
    ]
    assert [text.get_text() for text in ax.texts] == ["2/6", "1/2"]
    labels = {text.get_text() for text in ax.get_legend().get_texts()}
    assert labels == {label for label, _ in plot.STATES.values()}


def test_states_have_colours_of_their_own(trace):
    image = plot.kept_raster(trace, row=1).images[0]
    drawn = {tuple(image.cmap(image.norm(number))) for number in range(len(plot.STATES))}
    assert len(drawn) == len(plot.STATES)


def test_reveal_timeline(trace):
    ax = plot.reveal_timeline(trace, row=1)
    confidence = ax.images[0].get_array()
    expected = {(3, 0), (5, 0), (4, 1), (6, 1), (7, 2), (8, 2), (9, 2), (10, 2)}
    places = {(int(p) + 3, int(f)) for p, f in zip(*(~confidence.mask).nonzero(), strict=True)}
    assert confidence.shape == (8, 3)
    assert places == expected
    for position, forward in expected:
        assert confidence[position - 3, forward] == pytest.approx(0.5 + 0.01 * position)
    assert ax.images[0].get_extent() == [-0.5, 2.5, 10.5, 2.5]
    assert [bar.get_height() for bar in ax.child_axes[0].patches] == [2, 2, 4]


def test_rows_are_told_apart(trace):
    assert plot.kept_raster(trace, row=0).images[0].get_array()[0].tolist() == (
        [PREFIX] + [BLOCK] * 4 + [DROPPED] * 6
    )
    assert plot.reveal_timeline(trace).images[0].get_array().shape == (4, 1)


def test_a_file_is_as_good_as_its_trace(trace, tmp_path):
    path = tmp_path / "trace.jsonl"
    trace.save(path)
    for name in (path, str(path)):
        assert plot.block_states(name, 1) == plot.block_states(trace, 1)
    figure = plot.overview(path, row=1)
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
    raster, timeline = figure.axes[:2]
    assert raster.images[0].get_array().shape == (3, 13)
    assert timeline.images[0].get_array().shape == (8, 3)


def test_axes_of_the_caller_are_used_and_pyplot_is_not(trace):
    ax = plot.new_figure(4, 3).add_subplot()
    assert plot.kept_raster(trace, ax=ax) is ax
    assert plot.reveal_timeline(trace, ax=ax) is ax
    assert plot.reveal_timeline(trace).figure is not ax.figure
    assert Gcf.figs == {}


def test_a_run_that_committed_nothing_is_empty(trace):
    trace.events = []
    assert plot.block_states(trace) == [["after end"] * 11] * 3
    assert plot.reveal_timeline(trace).images[0].get_array().mask.all()


@pytest.mark.parametrize("draw", [plot.kept_raster, plot.reveal_timeline])
def test_bad_arguments(trace, draw):
    with pytest.raises(ValueError, match="row = 2: the trace holds rows 0 to 1"):
        draw(trace, row=2)
    with pytest.raises(ValueError, match="row = True"):
        draw(trace, row=True)
    with pytest.raises(TypeError, match="trace is a dict"):
        draw({"events": []})
