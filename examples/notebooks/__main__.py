"""Executes the notebooks and stores them with their outputs.

    python examples/notebooks                all of them
    python examples/notebooks quickstart     one

A notebook is kept as a percent script (jupytext), which is what one edits; the .ipynb beside it is
made from it. `make notebooks` runs this with the packages of requirements/docs.txt.
"""

import argparse
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def executed(name):
    """The notebook of a script, executed in this environment's Python; raises what a cell raises.

    Bars and warnings (stderr) are left out of its outputs, plain text where there is HTML, and
    whatever differs between machines out of its metadata.
    """
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.clear()
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=120, record_timing=False, resources=resources).execute()
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if "text/html" in output.get("data", ()):
                    output["data"].pop("text/plain", None)
    return notebook


def main(arguments=None):
    parser = argparse.ArgumentParser(description="executes the notebooks and stores them")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="default: all")
    for name in parser.parse_args(arguments).names or NAMES:
        nbformat.write(executed(name), FOLDER / f"{name}.ipynb")
        print(f"{name}.ipynb")


if __name__ == "__main__":
    main()
