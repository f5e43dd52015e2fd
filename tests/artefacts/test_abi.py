"""The compiled modules use torch's and Python's stable ABI only, so one build serves many."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

MODULES = ("_C", "_C_cuda")
# Symbols of torch's C shim; everything else of torch is unstable.
SHIM = re.compile(r"(aoti_torch_|torch_)\w+$")


def undefined(tool, path):
    lines = tool("nm", "-DC", "--undefined-only", path).splitlines()
    return [line.split(maxsplit=1)[1] for line in lines]


@pytest.mark.parametrize("name", MODULES)
def test_no_symbol_of_torchs_cpp_interface(module_path, tool, name):
    found = undefined(tool, module_path(name))
    assert any(SHIM.match(symbol) for symbol in found)
    assert not [s for s in found if re.search(r"\b(at|c10|torch|caffe2)::", s)]


@pytest.mark.parametrize("name", MODULES)
def test_only_the_init_function_is_exported(module_path, tool, name):
    lines = tool("nm", "-DC", "--defined-only", module_path(name)).splitlines()
    exported = [line.split(maxsplit=2)[2] for line in lines]
    assert f"PyInit_{name}" in exported
    assert not [symbol for symbol in exported if "dpad" in symbol or "torch" in symbol]


@pytest.mark.parametrize("name", MODULES)
def test_torch_abi_audit(module_path, name):
    if importlib.util.find_spec("torch_abi_audit") is None:
        pytest.skip("torch-abi-audit is not installed")
    command = [sys.executable, "-m", "torch_abi_audit.cli", "--json", str(module_path(name))]
    (audit,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[
        "extensions"
    ]
    assert audit["torch"]["stable"] and not audit["torch"]["unstable_symbols"]
    assert audit["torch"]["min_torch_version"] == "2.11.0"
    assert audit["cpython"]["compliant"] and not audit["cpython"]["violations"]


@pytest.mark.parametrize(
    ("name", "wanted"), [("_C", "libtorch_cpu.so"), ("_C_cuda", "libtorch.so")]
)
def test_recorded_libraries(module_path, tool, name, wanted):
    dynamic = tool("readelf", "-d", module_path(name))
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert wanted in needed
    # The CUDA runtime is static; Python and torch's other libraries are found by the process.
    assert not [lib for lib in needed if re.match(r"libcudart|libpython|libc10|libtorch_p", lib)]
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


@pytest.mark.parametrize("name", MODULES)
def test_no_path_of_the_build_machine(module_path, root, name):
    content = module_path(name).read_bytes()
    assert str(root).encode() not in content
    assert b"site-packages" not in content
