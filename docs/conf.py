"""Sphinx configuration of the site; `make docs` builds it into build/site.

The source folder is the checkout itself, so that the pages stay where they are and link to each
other, to the notebooks and to the README as they do in the repository.
"""

import shutil
from pathlib import Path

import dpad

ROOT = Path(__file__).parents[1]

project = "dpad"
version = release = dpad.__version__
project_copyright = "the dpad authors, Apache-2.0"

root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "benchmarks/results/summary.md",
    "examples/notebooks/*.ipynb",
]
exclude_patterns = [".*", "build", "dist", "csrc", "tests"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

nb_execution_mode = "off"  # the stored outputs are shown; the tests execute the notebooks
nb_merge_streams = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
default_role = "code"  # `name` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_numpy_docstring = False
# The pages quote grammars and logs as they are.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"dpad {release}"
html_copy_source = False


def _copy_pictures(app, error):
    """Pictures in <picture> elements, which Sphinx does not follow."""
    if error is None and app.builder.format == "html":
        shutil.copytree(
            ROOT / "docs" / "pictures", Path(app.outdir) / "docs" / "pictures", dirs_exist_ok=True
        )


def setup(app):
    app.connect("build-finished", _copy_pictures)
