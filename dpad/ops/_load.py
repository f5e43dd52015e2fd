"""Loads the compiled modules once and keeps the reason where one is missing."""

import importlib
import os
import warnings
from functools import cache
from types import ModuleType

import torch

# Module -> None when it is loaded, else why it is not.
REASON: dict[str, str | None] = {"_C": "not tried", "_C_cuda": "not tried", "_host": "not tried"}


def _import(name: str) -> tuple[ModuleType | None, str | None]:
    try:
        return importlib.import_module(f"dpad.{name}"), None
    except ImportError as error:
        return None, str(error)


def _load() -> None:
    if os.environ.get("DPAD_DISABLE") == "1":
        REASON.update(dict.fromkeys(REASON, "switched off by DPAD_DISABLE=1"))
        return
    _, REASON["_C"] = _import("_C")
    if REASON["_C"] is not None:
        REASON["_C_cuda"] = f"needs _C, which is missing: {REASON['_C']}"
    elif torch.version.cuda is None:
        REASON["_C_cuda"] = f"torch {torch.__version__} is built without CUDA"
    else:
        _, REASON["_C_cuda"] = _import("_C_cuda")
    _, REASON["_host"] = _import("_host")
    if REASON["_host"] is not None:
        REASON["_host"] = "not in wheels; decoding does not need it"
    if REASON["_C"] is None:
        _warn_about_isa()


@cache
def told(name: str) -> str:
    """What an operator without arguments says: "build_info", "cpu_isa" or "cpu_extensions".

    Kept: at every call torch leaves a copy of such a text behind.
    """
    text: str = getattr(torch.ops.dpad, name).default()
    return text


def _warn_about_isa() -> None:
    """Says so where DPAD_ISA names an instruction set that is unknown or not supported."""
    try:
        told("cpu_isa")
    except RuntimeError as error:
        text = f"{error}. The operators run on the best instruction set of this processor."
        warnings.warn(text, RuntimeWarning, stacklevel=2)


_load()


def loaded(name: str) -> bool:
    """True when the compiled module `name` ("_C", "_C_cuda", "_host") is in use."""
    return REASON[name] is None


def constant(name: str, default: str) -> str:
    """The module constant `name` of `_C`, or `default` where that is not in use."""
    return getattr(importlib.import_module("dpad._C"), name) if loaded("_C") else default


def has_kernel(op: str, device_type: str) -> bool:
    """True when `op` runs on our own kernel for tensors of `device_type`, False: on its twin."""
    if not loaded("_C"):
        return False
    if device_type in ("cpu", "meta"):
        return True
    if device_type != "cuda" or not loaded("_C_cuda"):
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"dpad::{op}", "CUDA")


def build_info() -> dict[str, str]:
    """What was built and what is in use, as a dict of strings.

    Keys: ``build`` (compiler, build type, torch and CUDA of the build), ``cpu_isa`` (instruction
    set in use), and per compiled module ``"loaded"`` or the reason why it is not.
    """
    info = {name: "loaded" if reason is None else reason for name, reason in REASON.items()}
    if loaded("_C"):
        info["build"] = told("build_info")
        info["cpu_isa"] = told("cpu_isa")
    return info
