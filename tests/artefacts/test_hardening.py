"""The compiled modules are hardened as far as that costs nothing: read from the binaries."""

import json
import platform
import re

import pytest

MODULES = ("_C", "_C_cuda")


@pytest.mark.parametrize("name", MODULES)
def test_addresses_are_read_only_and_no_stack_is_code(module_path, tool, name):
    """Full RELRO: every symbol is bound when the module is loaded, then the table is read-only."""
    headers = tool("readelf", "-lW", module_path(name))
    assert "GNU_RELRO" in headers
    (stack,) = re.findall(r"GNU_STACK.*", headers)
    assert re.search(r"\bRW\b", stack) and "RWE" not in stack
    assert re.search(r"\(FLAGS_1\).*\bNOW\b", tool("readelf", "-dW", module_path(name)))
    assert not re.search(r"\bW..?E\b|RWE", headers)  # nothing is both written and run


@pytest.mark.parametrize("name", MODULES)
def test_stacks_are_guarded(module_path, tool, name):
    assert "__stack_chk_fail" in tool("nm", "-D", "--undefined-only", module_path(name))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="CET is for x86-64")
def test_every_object_of_the_kernels_marks_its_jumps(objects, tool):
    """The mark of a whole module also takes start-up files that have it; Debian's do not."""
    assert objects
    for name, path in objects.items():
        notes = tool("readelf", "-nW", path)
        assert "IBT" in notes and "SHSTK" in notes, name


def test_every_file_is_compiled_with_fortified_functions(objects):
    """Nothing in the modules copies into an array of known size, so no binary shows it."""
    folder = next(p for p in next(iter(objects.values())).parents if p.name == "CMakeFiles").parent
    commands = json.loads((folder / "compile_commands.json").read_text())
    ours = [c for c in commands if "/csrc/" in c["file"] and c["file"].endswith(".cpp")]
    assert ours and all("-D_FORTIFY_SOURCE=2" in c["command"] for c in ours)
