"""The source distribution: everything that the build reads, and a build that stops early."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    """Folder of the unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    (found,) = folder.iterdir()
    return found


def files(folder, *places):
    """Relative path -> content of the files that are sources in `places`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for place in places
        for path in (folder / place).rglob("*")
        if path.is_file() and path.suffix not in (".so", ".pyc")
    }


def test_it_holds_every_source(unpacked, root):
    places = ("csrc", "cmake", "dpad", "tests/cpp")
    assert files(unpacked, *places) == files(root, *places)
    for name in ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "setup.py"):
        assert (unpacked / name).read_bytes() == (root / name).read_bytes()
    assert (unpacked / "requirements/build.txt").exists()


def test_it_can_be_configured(unpacked, tmp_path):
    """CMake finds all that it names; the compiler's part is the same as in the checkout."""
    build = tmp_path / "build"
    options = [f"-DPython3_EXECUTABLE={sys.executable}", "-DDPAD_BUILD_CUDA=OFF", "-G", "Ninja"]
    done = subprocess.run(
        ["cmake", "-S", unpacked, "-B", build, *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    commands = json.loads((build / "compile_commands.json").read_text())
    assert len(commands) > 30
    assert not [c["file"] for c in commands if not os.path.exists(c["file"])]


@pytest.fixture
def without_torch(tmp_path):
    """A Python that has setuptools, as an isolated build gives it, but no torch."""
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    here = Path(sysconfig.get_paths()["purelib"])
    for path in (*here.glob("setuptools*"), here / "_distutils_hack"):
        (site / path.name).symlink_to(path)
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DPAD_TORCH_DIR")}

    def run(folder, *command):
        return subprocess.run(
            [environment / "bin/python", "setup.py", "--quiet", *command],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_the_metadata_is_not_made_without_torch(unpacked, without_torch, tmp_path):
    """pip asks for it before it downloads what it names, torch above all."""
    done = without_torch(unpacked, "dist_info", "--output-dir", tmp_path)
    assert done.returncode == 1
    assert "No torch was downloaded, nothing compiled. Install torch first" in done.stderr
    assert "pip install --no-build-isolation ." in done.stderr
    assert not list(tmp_path.glob("*.dist-info"))


def test_nor_is_anything_compiled(unpacked, without_torch):
    done = without_torch(unpacked, "build_ext")
    assert done.returncode == 1 and "Install torch first" in done.stderr


def test_the_source_distribution_needs_no_torch(unpacked, without_torch, tmp_path):
    done = without_torch(unpacked, "sdist", "--dist-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("dpad_dllm-*.tar.gz"))) == 1
