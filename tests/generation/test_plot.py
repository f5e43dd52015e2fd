"""Pictures of a trace: the data behind them."""

import itertools

import matplotlib
import numpy
import pytest
from matplotlib._pylab_helpers import Gcf
from PIL import Image

import dpad
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


def test_confidence_histogram(trace):
    ax = plot.confidence_histogram(trace, row=1)
    heights = [round(bar.get_height()) for bar in ax.patches]
    assert len(heights) == 20 and sum(heights) == 8
    assert {n: h for n, h in enumerate(heights) if h} == {10: 2, 11: 6}  # 0.53 to 0.60
    bars = next(bar for bar in ax.patches if bar.get_height() > 1)
    assert visible(ax, bars.get_facecolor())


def test_forwards_per_block(trace):
    ax = plot.forwards_per_block(trace, row=1)
    assert [bar.get_height() for bar in ax.patches] == [2, 1, 0]
    assert visible(ax, ax.patches[0].get_facecolor())


def visible(ax, colour):
    """Whether the drawn figure has at least 500 pixels of this colour."""
    ax.figure.canvas.draw()
    pixels = numpy.asarray(ax.figure.canvas.buffer_rgba())[..., :3]
    return (pixels == numpy.round(255 * numpy.array(colour[:3]))).all(-1).sum() > 500


@pytest.mark.parametrize("draw", plot.VIEWS.values(), ids=plot.VIEWS)
def test_themes_change_colours_and_nothing_else(trace, draw):
    before = dict(matplotlib.rcParams)
    light, dark = (draw(trace, row=1, theme=theme) for theme in ("light", "dark"))
    faces = [getattr(f, "figure", f).get_facecolor()[:3] for f in (light, dark)]
    assert faces[0] == (1, 1, 1) and max(faces[1]) < 0.1
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(ValueError, match="theme = 'blue': expected one of light, dark"):
        draw(trace, theme="blue")


@pytest.mark.parametrize("theme", plot.THEMES)
def test_states_can_be_told_apart_without_colour(theme):
    """Luminances of neighbouring states differ (WCAG contrast of at least 1.2)."""
    values = [luminance(colour[theme]) for _, colour in plot.STATES.values()]
    pairs = [("prefix", "block"), ("block", "kept"), ("kept", "dropped"), ("block", "dropped")]
    names = list(plot.STATES)
    for one, other in pairs:
        low, high = sorted(values[names.index(name)] for name in (one, other))
        assert (high + 0.05) / (low + 0.05) >= 1.2, (one, other)


def luminance(colour):
    """Relative luminance of "#rrggbb" (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_animation_shows_every_forward(trace, tmp_path):
    path = tmp_path / "a.gif"
    plot.animate(trace, path, row=1, per_second=2)
    with Image.open(path) as picture:
        frames = []
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(numpy.asarray(picture.convert("RGB")))
        durations = picture.info["duration"]
    assert len(frames) == 4  # nothing committed, then three forwards
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    assert durations >= 1500  # the last one stays


def test_animation_refuses_before_it_writes(trace, tmp_path):
    for arguments in ({"row": 2}, {"per_second": 0}, {"theme": "blue"}):
        for name in ("a.gif", "a.html"):
            if name == "a.html" and "theme" in arguments:
                continue
            with pytest.raises(ValueError, match=next(iter(arguments))):
                plot.animate(trace, tmp_path / name, **arguments)
    with pytest.raises(ValueError, match=r"expected \.gif or \.html"):
        plot.animate(trace, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_a_block_causal_decoding_has_the_same_pictures():
    """Nothing of what follows a block is kept, and blocks are counted from position 0."""
    model, _ = dpad.demo.load(name="tiny_sdar")
    prompts = [problem.prompt_ids for problem in dpad.demo.problems(2)]
    with dpad.patch(model) as handle:
        out = model.generate(prompts, max_new_tokens=48, early_stop=False, trace=True)
        assert "block" in handle._repr_html_()
    states = plot.kept_raster(out.trace, row=1).images[0].get_array()
    assert KEPT not in states and BLOCK in states
    first, block = len(prompts[1]), out.trace.header["config"]["block_length"]
    assert int((states[0] == BLOCK).sum()) == block - first % block
    assert all(draw(out.trace) is not None for draw in plot.VIEWS.values())
    assert "row 1: 48 tokens" in out.trace._repr_html_()


@pytest.mark.parametrize(
    "name, options",
    [
        ("tiny_sdar", {"early_stop": False}),
        ("tiny_llada", {"refine": dpad.Refine(0.5, block_length=4)}),
        ("tiny_llada", {"length": dpad.Daedal(initial_length=32)}),
    ],
)
def test_blocks_of_any_kind_come_back_from_a_file(tmp_path, name, options):
    model, _ = dpad.demo.load(name=name)
    ids = [dpad.demo.problems(1)[0].prompt_ids]
    trace = dpad.generate(model, ids, max_new_tokens=48, trace=True, **options).trace
    trace.save(tmp_path / "trace.jsonl")
    loaded = Trace.load(tmp_path / "trace.jsonl")
    assert loaded.events == trace.events
    for event in loaded.events:
        start, end = event["span"]
        assert all(start <= p < end for p in event["positions"])
    assert plot.block_states(loaded) == plot.block_states(trace)
    bars = [bar.get_height() for bar in plot.forwards_per_block(loaded).patches]
    assert sum(bars) == len(trace.events)
