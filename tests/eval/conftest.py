"""The harness without a network, and what the tests ask it."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import dpad

DATASETS = tempfile.TemporaryDirectory(prefix="dpad-datasets-")
if find_spec("lm_eval"):  # read when its packages are imported; elsewhere nothing is changed
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_DATASETS_CACHE=DATASETS.name,
    )


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def demo():
    """(model, tokenizer) of the tiny LLaDA; tests leave it as it is."""
    return dpad.demo.load()


@pytest.fixture(scope="session")
def problems():
    return dpad.demo.problems(12, seed=3)


@pytest.fixture
def ask():
    """`ask(kind, (arguments), ...)`: requests of the harness."""
    from lm_eval.api.instance import Instance

    def requests(kind, *arguments):
        return [
            Instance(kind, {}, of_one, 0, metadata=("task", number, 1))
            for number, of_one in enumerate(arguments)
        ]

    return requests
