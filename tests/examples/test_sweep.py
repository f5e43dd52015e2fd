"""examples/sweep.py, run with small numbers."""

import importlib.util
import json
from pathlib import Path

import pytest
from matplotlib.image import imread

SOURCE = Path(__file__).parents[2] / "examples" / "sweep.py"
SMALL = "--problems 3 --canvas 48 --windows 8 16 --densities 0.5 --near 0 4 --batch 2 --threads 1"


@pytest.fixture(scope="module")
def sweep():
    spec = importlib.util.spec_from_file_location("sweep", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sweep_measures_and_draws_every_point(sweep, tmp_path, capsys):
    sweep.main([*SMALL.split(), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    points = found["points"]
    assert found["settings"]["windows"] == [8, 16]
    assert [p["label"] for p in points[:2]] == ["full suffix", "no suffix"]
    grid = {(p["near"], p["window"], p["density"]) for p in points[2:]}
    assert grid == {(near, window, 0.5) for near in (0, 4) for window in (8, 16)}
    full, none = (p["positions"] / p["forwards"] for p in points[:2])
    assert full > none  # rows of a forward: the first block sees 16 suffix positions or none
    for point in points:
        assert point["interval"][0] <= point["exact"] <= point["interval"][1]
        assert point["seconds"] > 0
        assert 1 <= point["forwards"] <= 48
    for name in ("cost.png", "window_density.png"):
        picture = imread(tmp_path / "out" / name)
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 0.05
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(points) + 2  # heading, points, caption, what was written
    measured = (tmp_path / "out" / "measured.jsonl").read_text().splitlines()
    assert len(measured) == 1 + 2 * len(points)  # three problems are two batches
