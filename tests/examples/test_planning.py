"""examples/planning, with two canvases and a model that is trained in seconds."""

import json
import runpy
from itertools import product
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "planning"
SMALL = "--tasks fill --longest 9 --width 64 --layers 2 --steps 200 --step-tokens 512 --problems 3"


@pytest.fixture(scope="module")
def planning():
    return runpy.run_path(str(FOLDER), run_name="planning")


@pytest.fixture(scope="module")
def run(planning, tmp_path_factory):
    """The folder of a finished run; its results."""
    out = tmp_path_factory.mktemp("planning")
    planning["main"]([*SMALL.split(), "--out", str(out)])
    return out, json.loads((out / "results.json").read_text())["fill"]


@pytest.mark.slow(reason="trains a model")
def test_far_suffix_decides(planning, run):
    _, found = run
    full, none, near = (found[label] for label in ("full suffix", "none", "nearest 4"))
    assert full["exact"] == 100
    task = planning["TASKS"]["fill"](longest=9)
    # Canvases of 8 and 9 look the same without the end of the longer one: one answer for both.
    for point, window in ((none, 0), (near, 4)):
        assert point["first"]["8"] == point["first"]["9"]
        assert point["exact"] <= 100 * task.ceiling(window) == 50
    assert none["positions"] < near["positions"] < full["positions"]


@pytest.mark.slow(reason="trains a model")
def test_a_trained_model_is_scored_again(planning, run, capsys):
    out, found = run
    weights = (out / "fill" / "model.safetensors").read_bytes()
    planning["main"]([*SMALL.split(), "--out", str(out)])
    printed = capsys.readouterr().out
    assert (out / "fill" / "model.safetensors").read_bytes() == weights
    assert json.loads((out / "results.json").read_text())["fill"] == found
    assert "| full suffix | 100.0 % | 9 | 9.0 |" in " ".join(printed.split())
    assert len(printed.splitlines()) == 2 + len(found)


def test_fill_counts_down_to_the_last_position(planning):
    task = planning["TASKS"]["fill"](longest=12)
    rows = task.problems(9, 2)
    assert rows.tolist() == [[task.start_id, 8, 7, 6, 5, 4, 3, 2, 1, 0]] * 2
    # Canvases 8 to 12, block 4: with a window of 5 those of 9 and more look alike.
    assert [task.ceiling(w) for w in (0, 4, 5, 7, 8)] == [0.2, 0.2, 0.4, 0.8, 1.0]


def solutions(puzzle):
    """All solutions of a 4x4 puzzle, by search."""
    if 0 not in puzzle:
        return [puzzle]
    cell = puzzle.index(0)
    row, column = divmod(cell, 4)
    seen = {
        puzzle[4 * r + c]
        for r, c in product(range(4), repeat=2)
        if r == row or c == column or (r // 2, c // 2) == (row // 2, column // 2)
    }
    tries = ([*puzzle[:cell], d, *puzzle[cell + 1 :]] for d in {1, 2, 3, 4} - seen)
    return [s for tried in tries for s in solutions(tried)]


def test_sudokus_have_one_solution_and_no_clue_too_many(planning):
    task = planning["TASKS"]["sudoku"]()
    assert len(task.grids) == len({tuple(g) for g in task.grids.tolist()}) == 288
    for row in task.problems(16, 6, torch.Generator().manual_seed(3)).tolist():
        puzzle, start, solution = row[:16], row[16], row[17:]
        assert start == task.start_id
        assert solutions(puzzle) == [solution]
        for cell in range(16):
            if puzzle[cell]:
                assert len(solutions([*puzzle[:cell], 0, *puzzle[cell + 1 :]])) > 1


def test_test_grids_are_never_trained_on(planning):
    task = planning["TASKS"]["sudoku"]()
    grids = {
        split: {tuple(r[17:]) for r in task.problems(16, 500, None, split).tolist()}
        for split in ("train", "test")
    }
    assert len(grids["test"]) <= 36 < 150 < len(grids["train"])
    assert not grids["test"] & grids["train"]
