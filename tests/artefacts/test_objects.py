"""Object files of the instruction-set kernels.

A file compiled for AVX2 or AVX-512 must not define inline functions or template instances that
the linker could choose for the whole program: an older processor would die on them.
"""

import platform
import re

import pytest

KERNELS = (
    "add_rms_norm",
    "block_attention",
    "combine",
    "confidence",
    "int8_linear",
    "linear",
    "rope_kv_write",
    "swiglu",
)
ISAS = ("portable", "avx2", "avx512")
# Beyond a set -> the instruction that only this object may have.
EXTENSIONS = {
    ("int8_linear", "avx512vnni"): "vpdpbusd",
    ("linear", "avx512bf16"): "vdpbf16ps",
}
OBJECTS = [*((kernel, isa) for kernel in KERNELS for isa in ISAS), *EXTENSIONS]

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the instruction-set kernels are for x86-64"
)


def symbols(tool, path):
    """(type, demangled name) of every defined symbol."""
    lines = tool("nm", "-C", "--defined-only", path).splitlines()
    return [tuple(line.split(maxsplit=2)[1:]) for line in lines]


@pytest.mark.parametrize(("kernel", "isa"), OBJECTS)
def test_only_the_entry_points_leave_the_object(objects, tool, kernel, isa):
    found = symbols(tool, objects[f"{kernel}_{isa}"])
    shared = [(kind, name) for kind, name in found if kind in "WVuw"]
    assert not shared
    exported = [name for kind, name in found if kind.isupper() and kind not in "U"]
    assert exported
    for name in exported:
        assert re.match(rf"dpad::cpu::\w+_{isa}\(", name), name


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_object_uses_its_own_registers(objects, tool, kernel):
    code = {
        isa: tool("objdump", "-d", "--no-show-raw-insn", objects[f"{kernel}_{isa}"]) for isa in ISAS
    }
    assert "%zmm" in code["avx512"]
    assert "%ymm" in code["avx2"] and "%zmm" not in code["avx2"]
    assert "%ymm" not in code["portable"] and "%zmm" not in code["portable"]


def test_extensions_stay_in_their_objects(objects, tool):
    for kernel, isa in OBJECTS:
        code = tool("objdump", "-d", "--no-show-raw-insn", objects[f"{kernel}_{isa}"])
        found = {owner for owner, instruction in EXTENSIONS.items() if instruction in code}
        assert found == ({(kernel, isa)} & EXTENSIONS.keys()), (kernel, isa)


def test_everything_else_runs_everywhere(objects, tool):
    of_an_isa = {f"{kernel}_{isa}" for kernel, isa in OBJECTS}
    others = [name for name in objects if name not in of_an_isa]
    assert set(others) >= {*KERNELS, "grouped_linear", "isa", "route", "suffix_gather", "unmask"}
    for name in others:
        assert not re.search(r"%[yz]mm", tool("objdump", "-d", objects[name])), name
