"""The stored notebooks are made from their scripts, and the scripts run."""

import runpy
from itertools import groupby
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="make test-docs")
nbformat = pytest.importorskip("nbformat", reason="make test-docs")

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
MODULE = runpy.run_path(str(FOLDER / "__main__.py"), run_name="notebooks")
NAMES = MODULE["NAMES"]


def kinds(cell):
    """Types of what a cell shows; text on one stream may arrive in any number of pieces."""
    shown = [o.get("name") or sorted(o["data"]) for o in cell.get("outputs", ())]
    return [kind for kind, _ in groupby(shown)]


def test_every_notebook_is_stored():
    assert NAMES == ["choosing_a_suffix", "inside_a_step", "quickstart", "your_own_model"]
    assert sorted(p.stem for p in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_belong_to_the_script(name):
    stored = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(stored)
    script = jupytext.read(FOLDER / f"{name}.py")
    told = "the script has changed: make notebooks"
    assert [(c.cell_type, c.source) for c in stored.cells] == [
        (c.cell_type, c.source) for c in script.cells
    ], told
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert "/home/" not in text and str(FOLDER.parents[1]) not in text
    assert len(text) < 400_000


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name):
    """And shows outputs of the types that are stored."""
    found = MODULE["executed"](name)
    stored = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert [kinds(c) for c in found.cells] == [kinds(c) for c in stored.cells]
    assert "".join(o.get("text", "") for c in found.cells for o in c.get("outputs", ()))
