"""What type checkers see of the package is what it holds."""

import ast
import tomllib

import dpad
from dpad.models import hf


def test_type_checkers_see_the_public_names(root):
    """The names of `dpad.__getattr__` once more, from the same modules."""
    tree = ast.parse((root / "dpad/__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {}
    for node in block.body:
        for name in node.names:
            assert name.name == name.asname  # an alias to itself is a name that is passed on
            seen[name.name] = node.module
    modules = {name: path.rpartition(".")[0] for name, path in dpad._MODULES.items()}
    assert seen == {**dpad._PUBLIC, **modules}


def test_type_checkers_see_the_native_classes(root):
    tree = ast.parse((root / "dpad/models/hf/__init__.py").read_text(encoding="utf-8"))
    block, _ = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = [(node.module, name.name) for node in imports for name in node.names]
    for _, module, *classes in hf._CLASSES:
        assert all((f"dpad.models.hf.{module}", name) in seen for name in classes)


def test_every_file_is_checked(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["files"] == ["dpad"] and settings["strict"]
    assert not {"exclude", "ignore_errors"} & set(settings)
