"""examples/planning, with two canvases and a model that is trained in seconds."""

import json
import math
import runpy
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import refresh

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


def deciphered(task, row):
    """What each token of an answer has to be, from the tokens before it: the rule, one by one."""
    due = []
    for place in range(task.prompt_length, len(row)):
        column = (place - 1) % 24
        first = place - column  # of its line
        source = first - (96 if column and row[first] == 27 else 72)
        if column == 0:
            due.append(row[source])
        elif column == 23:
            due.append(24 + row[source + 22] % 2)
        else:
            third, digit = divmod(row[source + column], 8)
            due.append(8 * third + (digit + row[source + 23] - 24) % 8)
    return due


@pytest.mark.parametrize("canvas", [32, 288])
def test_lines_follow_from_those_far_before(planning, canvas):
    task, generator = planning["TASKS"]["cipher"](), torch.Generator().manual_seed(2)
    rows = task.problems(canvas, 8, generator).tolist()
    assert len({tuple(row) for row in rows}) == 8
    for row in rows:
        assert len(row) == 97 + canvas and row[0] == task.start_id
        assert row[97:] == deciphered(task, row)
        markers, keys = row[1::24], row[24::24]
        assert set(markers) <= {26, 27} and set(keys) <= {24, 25}
        digits = [token for token in row[1:] if token < 24]
        assert len(digits) == len(row) - 1 - len(markers) - len(keys)
        assert [d // 8 for d in digits[:22]] == [0] * 8 + [1] * 8 + [2] * 6
    assert {token for row in rows for token in row[97:]} == set(range(28))


def test_blocks_are_masked_as_decoding_finds_them(planning):
    task, generator = planning["TASKS"]["cipher"](), torch.Generator().manual_seed(0)
    rows, seen = task.problems(96, 60, generator), []

    def model(ids):
        seen.append(ids)
        return SimpleNamespace(logits=torch.zeros(*ids.shape, task.vocabulary))

    loss = planning["train"].__globals__["block_loss"](model, rows, task, generator)
    assert loss.item() == pytest.approx(math.log(task.vocabulary))
    masked = seen[0] == task.mask_id
    assert torch.equal(seen[0][~masked], rows[~masked]) and not masked[:, :97].any()
    masked = masked[masked.any(1)]  # nothing was drawn in some blocks at the end
    clean = (~masked).long().argmin(1)  # the first masked position
    behind = masked.flip(1).long().argmin(1)  # masks at the end of the row
    assert clean.min() < 105 and clean.max() > 170
    assert (193 - behind - clean <= 40).all() and (behind > 0).sum() > 40
    assert (masked.sum(1) - behind > 0).sum() > 5  # blocks of which something is written


@pytest.fixture(scope="module")
def cipher_model(planning, tmp_path_factory):
    """The folder of a model that learned from six steps: it is right nowhere."""
    out = tmp_path_factory.mktemp("cipher")
    small = "--tasks cipher --train-only --steps 6 --width 32 --layers 1 --step-tokens 800"
    planning["main"]([*small.split(), "--out", str(out)])
    assert json.loads((out / "results.json").read_text()) == {"cipher": None}
    return out


def test_the_refresh_benchmark_reads_the_cipher(cipher_model, tmp_path, capsys):
    given = ["accuracy", "--tasks", "cipher", "--planning", str(cipher_model), "--problems", "2"]
    out = tmp_path / "refresh.json"
    refresh.main([*given, "--ways", "2", "1/1", "--out", str(out)])
    cell = json.loads(out.read_text())["cipher, own, dual, 16"]
    full, back, whole = (cell[way] for way in ("full", "2", "1/1"))
    assert full["right"] == [False, False] and full["begun"] == whole["begun"]
    assert back["positions"] < full["positions"] == whole["positions"]
    printed = capsys.readouterr().out
    assert "| cipher, own, dual, 16 " in printed and printed.count("| 0.0 [0.0, ") == 3
    assert f" {sum(full['begun']) / 2:.1f} " in printed
