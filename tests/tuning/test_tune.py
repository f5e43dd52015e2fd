"""dpad.tune: what is measured equals what generate gives, and an interrupted sweep goes on."""

import json

import pytest
import torch

import dpad
from dpad.tuning import sweep
from dpad.tuning.grid import GRID, configurations

SUFFIXES = [dpad.Suffix("none"), dpad.Suffix("gaussian", window=32, density=0.5, near=8)]
SMALL = {"max_new_tokens": 64, "block_length": 16}
OPTIONS = {"config": dpad.DPadGenerationConfig(**SMALL), "batch": 3, "progress": False}


@pytest.fixture(scope="module")
def demo():
    return dpad.demo.load()


@pytest.fixture(scope="module")
def problems():
    return dpad.demo.problems(5)


def check(problem, answer):
    return problem.check(answer)


def ids(problem):
    return problem.prompt_ids


def measured(result):
    return [(p.right, p.forwards, p.positions) for p in result.points]


def test_points_are_what_generate_gives(demo, problems):
    model, _ = demo
    grid = {"suffix": SUFFIXES, "cache": ["none", "dual"]}
    result = dpad.tune(model, problems, check, grid, prompt=ids, seed=3, **OPTIONS)
    assert [(p.config.suffix, p.config.cache) for p in result.points] == [
        (suffix, cache) for suffix in SUFFIXES for cache in ("none", "dual")
    ]
    for point in result.points:
        out = dpad.generate(
            model,
            [p.prompt_ids for p in problems],
            generation_config=point.config,
            seed=3,
            return_dict_in_generate=True,
        )
        right = [p.check(a) for p, a in zip(problems, out.sequences[:, -64:], strict=True)]
        assert list(point.right) == right
        assert point.forwards == pytest.approx(out.forwards.double().mean())
        assert point.positions == out.timings["positions"] / len(problems)
        assert point.seconds > 0
    assert len({p.positions for p in result.points}) == 4


def test_texts_of_different_lengths(demo):
    model, tokenizer = demo
    problem = dpad.demo.problems(1)[0]
    state = len(problem.prompt)
    asked = [problem.prompt, {"prompt": problem.prompt[: state - 5]}]
    seen = []

    def note(given, answer):
        seen.append((given, answer))
        return answer == problem.answer

    grid = [{"suffix": dpad.Suffix("all")}]
    result = dpad.tune(model, asked, note, grid, tokenizer=tokenizer, **OPTIONS)
    assert [given for given, _ in seen] == asked
    assert result.points[0].right == (True, False)
    alone = dpad.generate(model, tokenizer(asked[1]["prompt"])["input_ids"], **SMALL, **grid[0])
    text = tokenizer.decode(alone[0, -64:], skip_special_tokens=True)
    assert seen[1][1] == text


class Stopped(Exception):
    pass


def test_a_stopped_sweep_goes_on(demo, problems, tmp_path, monkeypatch):
    model, _ = demo
    grid = {"suffix": SUFFIXES}
    whole = dpad.tune(model, problems, check, grid, prompt=ids, **OPTIONS)
    calls = []
    stock = sweep.generate

    def counted(*args, **kwargs):
        calls.append(kwargs["row_keys"])
        if len(calls) == 4:  # the one that warms up, two of the first batch, one of the second
            raise Stopped
        return stock(*args, **kwargs)

    monkeypatch.setattr(sweep, "generate", counted)
    options = {**OPTIONS, "prompt": ids, "path": tmp_path / "new" / "tune.jsonl"}
    with pytest.raises(Stopped):
        dpad.tune(model, problems, check, grid, **options)
    with open(options["path"], "a", encoding="utf-8") as file:
        file.write('{"key": "cut')
    again = dpad.tune(model, problems, check, grid, **options)
    assert measured(again) == measured(whole)
    assert len(calls) == 4 + 1 + 2
    wider = {"suffix": [*SUFFIXES, dpad.Suffix("all")]}
    more = dpad.tune(model, problems, check, wider, **options)
    assert len(calls) == 7 + 1 + 2  # a new point; the others are known
    assert more.points[:2] == again.points
    lines = [json.loads(line) for line in options["path"].read_text().splitlines()]
    assert len(lines) == 1 + 6 and lines[0]["format"] == "dpad-tune"


def test_a_file_belongs_to_one_model_and_seed(demo, problems, tmp_path):
    model, _ = demo
    options = {**OPTIONS, "prompt": ids, "path": tmp_path / "tune.jsonl"}
    grid = {"suffix": SUFFIXES[:1]}
    first = dpad.tune(model, problems, check, grid, **options)
    with pytest.raises(ValueError, match=r"seed = 0, this sweep has 1"):
        dpad.tune(model, problems, check, grid, seed=1, **options)
    other, _ = dpad.demo.load()
    assert dpad.tune(other, problems, check, grid, **options).points == first.points
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1
    with pytest.raises(ValueError, match="written with model"):
        dpad.tune(other, problems, check, grid, **options)
    for text in (b"something else\n", b"[" * 50_000 + b"\n", b"1" * 5_000 + b"\n", b"\xff\n"):
        options["path"].write_bytes(text)
        with pytest.raises(ValueError, match="not a sweep's file"):
            dpad.tune(model, problems, check, grid, **options)


def test_the_handle_s_defaults_are_part_of_a_point(demo, problems, tmp_path, monkeypatch):
    model, _ = demo
    options = {"prompt": ids, "path": tmp_path / "tune.jsonl", "progress": False}
    grid = {"suffix": SUFFIXES[:1]}
    with dpad.patch(model, dpad.DPadGenerationConfig(**SMALL)):
        short = dpad.tune(model, problems, check, grid, **options)
    longer = dpad.DPadGenerationConfig(max_new_tokens=96, block_length=32)
    with dpad.patch(model, longer):
        long = dpad.tune(model, problems, check, grid, **options)
    assert measured(short) != measured(long)


def test_progress_counts_batches(demo, problems, capsys):
    model, _ = demo
    options = {**OPTIONS, "prompt": ids, "progress": True}
    dpad.tune(model, problems, check, {"suffix": SUFFIXES}, **options)
    assert "4/4" in capsys.readouterr().err


def test_the_grid_of_nobody_s_choice():
    points = configurations(GRID)
    assert len(points) == 24
    assert points[0].suffix.kind == "all" and points[0].cache == "none"


def test_a_rule_of_the_grid_replaces_the_common_one():
    base = dpad.DPadGenerationConfig(confidence_threshold=0.9, max_new_tokens=32)
    points = configurations([{"steps": 16}, {"cache": "dual"}], base)
    assert (points[0].steps, points[0].confidence_threshold) == (16, None)
    assert (points[1].steps, points[1].confidence_threshold) == (None, 0.9)
    assert {p.max_new_tokens for p in points} == {32}


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"problems": []}, "problems is empty"),
        ({"problems": ["a text"]}, "prompt 'a text' is a text"),
        ({"problems": [[]]}, r"prompt \[\]: expected"),
        ({"problems": [[[1, 2]]]}, r"prompt \[\[1, 2\]\]: expected"),
        ({"problems": [7]}, "prompt 7: expected"),
        ({"problems": [{"question": 1}]}, "holds no 'prompt': give prompt="),
        ({"check": "yes"}, "check is a str"),
        ({"problems": 7}, "problems = 7"),
        ({"problems": "a text"}, "problems = 'a text'"),
        ({"prompt": 7}, "prompt is a int"),
        ({"tokenizer": "gpt2"}, "tokenizer is a str"),
        ({"config": {"cache": "dual"}}, "config is a dict"),
        ({"config": dpad.DPadGenerationConfig(infill=True)}, "infill = True: a sweep"),
        ({"grid": 7}, "grid = 7"),
        ({"grid": [7]}, "grid holds 7"),
        ({"grid": {"suffix": "all"}}, r"grid\['suffix'\] = 'all': expected a list"),
        ({"grid": {"supper": [1]}}, "unknown option 'supper'"),
        ({"grid": {"cache": []}}, "expected at least one point"),
        ({"grid": {"seed": [1, 2]}}, "seed = 1: the sweep sets it itself"),
        ({"grid": [{"cache": "dual"}, {"cache": "dual"}]}, "the same point twice"),
        ({"batch": 0}, "batch = 0: expected a whole number >= 1"),
        ({"seed": None}, "seed = None: expected a 64-bit integer"),
        ({"tolerance": 2}, "tolerance = 2: expected a number from 0 to 1"),
        ({"cost": "watts"}, "cost = 'watts': expected one of seconds"),
        ({"progress": 1}, "progress = 1"),
    ),
)
def test_bad_arguments_are_named_before_any_work(demo, tmp_path, change, message, monkeypatch):
    monkeypatch.setattr(sweep, "generate", None)
    path = tmp_path / "tune.jsonl"
    given = {"problems": [[1, 2]], "check": check, "grid": {"cache": ["dual"]}, "path": path}
    with pytest.raises((TypeError, ValueError), match=message):
        dpad.tune(demo[0], **{**given, **change})
    assert not path.exists()
