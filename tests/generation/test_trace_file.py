"""Trace files: what was saved comes back, anything else is refused with its file and line."""

import copy
import json

import pytest

import dpad
from dpad import plot
from dpad.generation.output import Trace


@pytest.fixture(scope="module")
def trace():
    model, _ = dpad.demo.load()
    ids = [p.prompt_ids for p in dpad.demo.problems(2, seed=0)]
    return dpad.generate(model, ids, max_new_tokens=24, block_length=8, seed=1, trace=True).trace


def written(tmp_path, header, events):
    path = tmp_path / "trace.jsonl"
    Trace(header, events).save(path)
    return path


def test_what_was_saved_comes_back(trace, tmp_path):
    read = Trace.load(written(tmp_path, trace.header, trace.events))
    assert read.events == json.loads(json.dumps(trace.events))
    assert read.header == json.loads(json.dumps(trace.header))


BAD_FILES = {
    "empty": (b"", "empty, expected a dpad trace"),
    "binary": (b"\xff\xfe\x00", "not a text in UTF-8"),
    "no JSON": (b"{", "line 1: "),
    "nested": (b"[" * 200_000, "line 1: JSON that is nested too deeply"),
    "a list": (b"[1]\n", "line 1: record = [1]: expected an object"),
    "null": (b"null\n", "line 1: record = None: expected an object"),
    "other": (b'{"format": "other", "version": 9}\n', "('other', 9) are not a dpad trace's"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_no_trace_is_named(tmp_path, name):
    content, words = BAD_FILES[name]
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        Trace.load(path)
    assert str(path) in str(error.value) and words in str(error.value)


BAD_HEADERS = [
    ({"prompt_lengths": None}, "prompt_lengths = None"),
    ({"prompt_lengths": []}, "prompt_lengths = []"),
    ({"prompt_lengths": [1.5]}, "prompt_lengths[0] = 1.5"),
    ({"prompt_lengths": [-1]}, "prompt_lengths[0] = -1"),
    ({"prompt_lengths": [2**40]}, f"prompt_lengths[0] = {2**40}"),
    ({"config": None}, "config = None"),
    ({"config": {}}, "config.max_new_tokens = None"),
    ({"config": {"max_new_tokens": 2**40, "block_length": 4}}, "config.max_new_tokens"),
    ({"config": {"max_new_tokens": 24, "block_length": 0}}, "config.block_length = 0"),
    ({"seed": "x"}, "seed = 'x'"),
]


@pytest.mark.parametrize(("change", "words"), BAD_HEADERS)
def test_bad_headers_are_named(trace, tmp_path, change, words):
    path = written(tmp_path, {**trace.header, **change}, trace.events)
    with pytest.raises(ValueError) as error:
        Trace.load(path)
    assert f"{path}, line 1: {words}" in str(error.value)


BAD_EVENTS = [
    ({"row": 9}, "row = 9: expected a whole number from 0 to 1"),
    ({"row": "0"}, "row = '0'"),
    ({"forward": -1}, "forward = -1"),
    ({"block": 99, "span": None}, "block = 99: expected a whole number from 0 to 2"),
    ({"block": 99}, "block = 99: expected a whole number from 0 to"),
    ({"span": [5]}, "span = [5]: expected [start, end] of the block"),
    ({"span": [6, 5]}, "span = [6, 5]: expected [start, end] of the block"),
    ({"span": [0, 2**40]}, "span[1]"),
    ({"span": "x"}, "span = 'x': expected a list"),
    ({"positions": [-5]}, "positions[0] = -5"),
    ({"positions": [2**40]}, "positions[0]"),
    ({"positions": "x"}, "positions = 'x': expected a list"),
    ({"tokens": []}, "tokens = []: expected as many as positions"),
    ({"tokens": None}, "tokens = None: expected a list"),
    ({"confidence": [float("nan")]}, "confidence[0] = nan"),
    ({"kept": "x"}, "kept = 'x': expected a list"),
    ({"kept": [0.5]}, "kept[0] = 0.5"),
    ({"time": "now"}, "time = 'now'"),
]


@pytest.mark.parametrize(("change", "words"), BAD_EVENTS)
def test_bad_events_are_named_with_their_line(trace, tmp_path, change, words):
    events = copy.deepcopy(trace.events)
    assert len(events[1]["positions"]) > 0
    events[1].update(change)
    path = written(tmp_path, trace.header, events)
    with pytest.raises(ValueError) as error:
        plot.kept_raster(path)
    assert f"{path}, line 3: {words}" in str(error.value)
