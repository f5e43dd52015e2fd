"""What the steps need of the machine, looked for before the first of them is begun."""

import importlib.util
import os
import shutil
import sys

PACKAGES = (
    "hypothesis",
    "matplotlib",
    "numpy",
    "pybind11",
    "pytest",
    "safetensors",
    "setuptools",
    "transformers",
)


def look_further():
    """Adds this Python's scripts (cmake, ninja) and CUDA's programs to the end of PATH."""
    cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    more = [os.path.dirname(sys.executable), os.path.join(cuda, "bin")]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *more])


def missing():
    """What is not there, as text for the one who has to bring it; None if nothing is missing."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if shutil.which("cmake") is None:
        absent.append("cmake")
    lines = []
    if absent:
        names = " ".join(absent)
        lines.append(f"{', '.join(absent)}: not installed. Carry wheels and name their folder:")
        lines.append(f"    python -m pip download --only-binary=:all: -d wheels {names}")
        lines.append("    python -m benchmarks.gpu ... --wheels wheels")
    if shutil.which("nvcc") is None:
        lines.append("nvcc is neither on PATH nor in CUDA_HOME: the kernels cannot be built")
    return "\n".join(lines) or None
