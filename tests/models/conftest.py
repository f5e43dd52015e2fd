"""The golden models of the interface tests, and checkpoints with remote code."""

import json
import shutil
import sys

import pytest
import transformers
from safetensors.torch import save_file

from tests.generation.conftest import (  # noqa: F401
    dream,
    dream_weights,
    ids,
    llada,
    model,
    prompts,
    weights,
)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A function that writes a float32 checkpoint with its code; the code's cache is private.

    It takes the code (name in the folder -> source), the configuration's fields and the weights.
    """
    path = tmp_path / "checkpoint"
    cache = str(tmp_path / "modules")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in [n for n in sys.modules if n.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)  # packages that would look into another cache

    def write(code, config, state):
        path.mkdir()
        for name, source in code.items():
            shutil.copy(source, path / name)
        (path / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
        save_file(state, path / "model.safetensors", {"format": "pt"})
        return path

    return write
