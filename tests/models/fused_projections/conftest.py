"""A tiny model, and the handle that fuses its projections."""

import pytest

import dpad
from tests.decode.common import tiny


@pytest.fixture
def model():
    return tiny()


@pytest.fixture
def handle(model):
    with dpad.patch(model, fuse_projections=True) as handle:
        yield handle
