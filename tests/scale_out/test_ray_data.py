"""A data set through Ray Data gives what one process gives, key by key."""

import json
import os

import pytest

import dpad
from examples.ray import batch

COUNT = int(os.environ.get("DPAD_CASES", "120"))  # 1,000 in the long form
OPTIONS = {"max_new_tokens": 96}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """(file of problems with keys, the problems by key); keys are neither dense nor in order."""
    path = tmp_path_factory.mktemp("rows") / "problems.jsonl"
    found = {(7919 * n) % 100_003: p for n, p in enumerate(dpad.demo.problems(COUNT, seed=5))}
    lines = [json.dumps({"key": key, "prompt": p.prompt}) for key, p in found.items()]
    path.write_text("\n".join(lines) + "\n")
    return path, found


def test_two_actors_are_one_process_key_by_key(cluster, rows):
    path, problems = rows
    data = cluster.data.read_json(str(path), lines=True)
    found = batch.answer(data, "demo", OPTIONS, actors=2, batch_size=16).take_all()
    assert sorted(row["key"] for row in found) == sorted(problems)
    keys = list(problems)
    prompts = [problems[key].prompt for key in keys]
    alone = batch.Answers("demo", OPTIONS)({"key": keys, "prompt": prompts})
    columns = (alone[name] for name in ("key", "answer", "tokens", "forwards"))
    expected = {key: values for key, *values in zip(*columns, strict=True)}
    for row in found:
        assert [row["answer"], row["tokens"], row["forwards"]] == expected[row["key"]]
    right = sum(row["answer"] == problems[row["key"]].answer for row in found)
    assert right > 0.9 * len(found)


def test_the_command_line(cluster, rows, tmp_path):
    path, problems = rows
    few = tmp_path / "few.jsonl"
    few.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))
    batch.main([str(few), str(tmp_path / "out"), "--max-new-tokens", "96", "--actors", "1"])
    lines = [line for file in (tmp_path / "out").iterdir() for line in file.open()]
    found = {row["key"]: row["answer"] for row in map(json.loads, lines)}
    assert len(found) == 8
    assert sum(problems[key].answer == text for key, text in found.items()) >= 7


def test_the_row_key_is_the_key():
    """With noise an answer depends on its key, and on nothing else."""
    problem = dpad.demo.problems(1, seed=1)[0].prompt
    answers = batch.Answers("demo", {**OPTIONS, "temperature": 10.0})
    one = answers({"key": [5, 6, 7], "prompt": [problem] * 3})
    other = answers({"key": [7, 5], "prompt": [problem] * 2})
    assert other["answer"] == [one["answer"][2], one["answer"][0]]
    assert len(set(one["answer"])) == 3
