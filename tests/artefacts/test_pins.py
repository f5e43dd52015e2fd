"""requirements/*.in, what is named, against *.txt, which `make pins` compiles of them."""

import re
import runpy
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def program(root):
    return runpy.run_path(str(root / "requirements"), run_name="requirements")


def pinned(program, name):
    """Package -> version, of what is there when a file's packages are used."""
    lines = {k: v for base in program["bases"](name) for k, v in program["pins"](base).items()}
    lines |= program["pins"](name)
    return {k: line.partition("==")[2].partition(" ;")[0] for k, line in lines.items()}


def names(root, suffix):
    return sorted(path.stem for path in (root / "requirements").glob(f"*.{suffix}"))


def test_every_file_is_compiled(root):
    assert names(root, "in") == names(root, "txt") != []


def test_what_is_named_is_pinned(root, program):
    for name in names(root, "in"):
        found = pinned(program, name)
        for line in (root / f"requirements/{name}.in").read_text().splitlines():
            if line.startswith(("#", "-r ")):
                continue
            wanted = Requirement(line)
            version = found.get(canonicalize_name(wanted.name))
            assert version is not None, f"{name}.in names {line}: make pins"
            assert wanted.specifier.contains(version), f"{name}.in names {line}: make pins"


def test_the_extras_are_pinned(root, program):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    found = {k: v for name in names(root, "txt") for k, v in pinned(program, name).items()}
    found |= pinned(program, "test")
    for extra in project["optional-dependencies"].values():
        for wanted in map(Requirement, extra):
            name = canonicalize_name(wanted.name)
            if name != project["name"]:
                assert wanted.specifier.contains(found[name]), f"{wanted} in pyproject.toml"


def test_files_name_the_command_and_no_place(root, program):
    for name in names(root, "txt"):
        text = (root / f"requirements/{name}.txt").read_text()
        assert text.splitlines()[1] == "#    make pins"
        assert not re.search("://|^--", text, re.MULTILINE)
        every = re.findall(r"^([\w-]+)==", text, re.MULTILINE)
        assert every == sorted(set(every))
        big = {"torch", "numpy", "transformers"} & set(every)
        assert big == {"test": {"numpy", "transformers"}, "transformers-4": {"transformers"}}.get(
            name, set()
        )
