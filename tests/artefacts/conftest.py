"""The artefacts of the build that these tests look at."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import dpad

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(dpad.__file__).resolve().parent


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def module_path():
    """Finds a compiled module; only _C_cuda, which needs nvcc, may be missing."""

    def find(name):
        path = PACKAGE / f"{name}.abi3.so"
        if name == "_C_cuda" and not path.exists():
            pytest.skip("_C_cuda was not built (no nvcc when dpad was installed)")
        assert path.exists(), f"{path} is missing: dpad was installed without its build"
        return path

    return find


@pytest.fixture(scope="session")
def objects():
    """Object files of the CPU kernels, by name without suffix."""
    folder = ROOT / "build" / f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    found = {p.name.split(".")[0]: p for p in folder.rglob("dpad_cpu.dir/csrc/cpu/*.cpp.o")}
    if not found:
        pytest.skip(f"no object files in {folder} (dpad was not built in this checkout)")
    return found


@pytest.fixture(scope="session")
def tool():
    """Runs a binutils program and returns its output."""

    def run(*command):
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} (binutils) is not installed")
        return subprocess.run(
            [str(part) for part in command], check=True, capture_output=True, text=True
        ).stdout

    return run
