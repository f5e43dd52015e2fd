"""Who may know of whom: includes in csrc, imports of the package, and what it needs."""

import os
import re
import subprocess
import sys

import pytest

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
TORCH = re.compile(r"(torch|ATen|c10)/|Python\.h")

# Folder of csrc -> what its files must not include.
FORBIDDEN = {
    "core": re.compile(TORCH.pattern + r"|cpu/|cuda|host/|pybind11/"),
    "cpu": re.compile(TORCH.pattern + r"|cuda|host/|pybind11/|fmt/"),
    "cuda": re.compile(TORCH.pattern + r"|cpu/|host/|pybind11/|fmt/"),
    "host": re.compile(TORCH.pattern + r"|cpu/|cuda"),
    "torch": re.compile(r"fmt/|pybind11/|host/|ATen/|c10/"),
}
# The files that spell torch's stable names.
STABLE = ("csrc/torch/stable.h", "csrc/torch/cuda/kernels.cpp")


def includes(root, folder):
    for path in sorted((root / "csrc" / folder).rglob("*")):
        if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
            for bracket, name in INCLUDE.findall(path.read_text()):
                yield path.relative_to(root).as_posix(), bracket, name


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_includes_point_down(root, folder):
    found = list(includes(root, folder))
    assert found
    bad = [(path, name) for path, _, name in found if FORBIDDEN[folder].match(name)]
    assert not bad


def test_torch_is_spelled_in_one_place_per_module(root):
    for path, bracket, name in includes(root, "torch"):
        if bracket == "<" and name.startswith("torch/"):
            assert path in STABLE, f"{path} includes <{name}>"


def test_the_package_stands_without_its_tests(root):
    """What is installed imports nothing of the checkout beside it: no double, no benchmark."""
    beside = re.compile(r"^\s*(?:from|import) (?:tests|benchmarks|examples)\b", re.MULTILINE)
    files = sorted((root / "dpad").rglob("*.py"))
    assert files
    assert not [str(path) for path in files if beside.search(path.read_text())]


def python(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


USE = """
import torch, dpad, dpad.ops
x = torch.tensor([[1.0, -2.0, 3.0]])
assert torch.allclose(dpad.ops.swiglu(x, x), torch.nn.functional.silu(x) * x)
assert dpad.ops.transfer_schedule(32, 10).tolist() == [4, 4] + [3] * 8
assert "transformers" not in sys.modules
print({name: dpad.ops.loaded(name) for name in ("_C", "_C_cuda", "_host")})
"""


@pytest.mark.slow(reason="processes of their own import torch")
@pytest.mark.parametrize("missing", ["_C", "_C_cuda", "_host"])
def test_dpad_works_without_a_compiled_module(missing):
    out = python(f"import sys; sys.modules['dpad.{missing}'] = None\n{USE}")
    loaded = eval(out)
    assert not loaded[missing]
    assert loaded["_C"] == (missing != "_C")


@pytest.mark.slow(reason="a process of its own imports torch")
def test_dpad_works_with_all_of_them_switched_off():
    assert not any(eval(python("import sys\n" + USE, DPAD_DISABLE="1")).values())
