"""dpad: suffix dropout, caches and parallel decoding for masked-diffusion language models.

Public names are resolved on first use, so that ``import dpad`` needs torch only; transformers is
imported by the names that wrap it.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

_PUBLIC = {
    "patch": "dpad.patching",
    "patched": "dpad.patching",
    "supports": "dpad.patching",
    "generate": "dpad.generation.api",
    "Suffix": "dpad.decode.suffix",
    "DPadGenerationConfig": "dpad.generation.config",
    "DPadOutput": "dpad.generation.output",
    "presets": "dpad.generation.presets",
    "build_info": "dpad.ops",
    "ops": None,
    "models": None,
    "demo": None,
    "testing": None,
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dpad' has no attribute {name!r}")
    module = _PUBLIC[name]
    if module is None:
        return _import_module(f"dpad.{name}")
    return getattr(_import_module(module), name)


def __dir__():
    return sorted({*globals(), *_PUBLIC})
