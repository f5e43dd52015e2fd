"""Model families: what a decoder may know of a checkpoint, and native classes."""

from importlib import import_module as _import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "hf":  # on first use: it needs transformers
        return _import_module("dpad.models.hf")
    raise AttributeError(f"module 'dpad.models' has no attribute {name!r}")
