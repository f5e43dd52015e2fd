"""`python -m benchmarks.refresh accuracy` with a few problems."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import exact_tasks, refresh


def test_ways():
    assert refresh.way("2") == {"refresh": "recent", "look_back": 2}
    assert refresh.way("1/8") == {"refresh": "recent", "look_back": 1, "refresh_period": 8}


def test_answers_of_the_shipped_models(tmp_path, capsys):
    out = tmp_path / "refresh.json"
    small = "accuracy --problems 3 --canvases 64 --blocks 16 --ways 1 1/1"
    refresh.main([*small.split(), "--out", str(out)])
    found = json.loads(out.read_text())
    assert list(found) == ["counting, 64, dual, 16", "dream, 64, dual, 16"]
    for cell in found.values():
        assert cell["full"] == cell["1/1"]
        assert sum(cell["full"]["right"]) >= 2 and cell["full"]["begun"] == [None] * 3
        assert cell["1"]["positions"] < cell["full"]["positions"]
    printed = capsys.readouterr().out
    assert "| counting, 64, dual, 16 " in printed and printed.count("| 1/1 ") == 2


def test_problems_of_different_lengths_are_not_mixed():
    lengths = (8, 8, 4, 4, 8)
    task = SimpleNamespace(
        model=refresh.dpad.demo.load()[0],
        prompts=[[5, 6]] * 5,
        options={"block_length": 4},
        length=lengths.__getitem__,
        right=lambda number, answer: len(answer) == lengths[number],
        begun=lambda number, answer: None,
    )
    assert refresh.decoded(task, {}, None)["right"] == [True] * 5
    assert refresh.decoded(task, {}, 8)["right"] == [True, True, False, False, True]


def test_a_planning_task_says_how_far_an_answer_is_right():
    task = exact_tasks.Planning.__new__(exact_tasks.Planning)
    task.prompt_length = 1
    task.rows = [refresh.torch.tensor([9, 1, 2, 3, 4])]
    tokens = refresh.torch.tensor
    assert task.right(0, tokens([1, 2, 3, 4])) and task.begun(0, tokens([1, 2, 3, 4])) == 100
    assert task.begun(0, tokens([1, 0, 3, 0])) == 25 and task.begun(0, tokens([0, 2, 3, 4])) == 0
    assert not task.right(0, tokens([1, 0, 3, 4]))


def test_an_unknown_task_is_refused():
    with pytest.raises(SystemExit):
        refresh.parse(["accuracy", "--tasks", "moon"])
