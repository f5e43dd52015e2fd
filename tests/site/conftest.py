"""Notebooks and site need the packages of requirements/docs.txt, put before the environment's."""

import pytest

for package in ("jupytext", "nbclient", "sphinx"):
    pytest.importorskip(package, reason="make test-docs")
