"""The wheel and the source distribution of this checkout, as `make wheel` leaves them in dist/."""

from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _made(pattern):
    if find_spec("auditwheel") is None:
        pytest.skip("the tools of requirements/package.txt are not here: make test-package")
    found = list((ROOT / "dist").glob(pattern))
    assert len(found) == 1, f"dist/{pattern}: {[path.name for path in found]}; type: make wheel"
    return found[0]


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def wheel():
    """Path of the wheel."""
    return _made("*.whl")


@pytest.fixture(scope="session")
def sdist():
    """Path of the source distribution."""
    return _made("*.tar.gz")
