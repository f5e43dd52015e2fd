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
    "custom_generate": "dpad.generation.custom",
    "loglikelihood": "dpad.generation.likelihood",
    "LogLikelihood": "dpad.generation.likelihood",
    "Suffix": "dpad.decode.suffix",
    "rows_of_pass": "dpad.models.block_hooks",
    "DPadGenerationConfig": "dpad.generation.config",
    "DPadOutput": "dpad.generation.output",
    "Trace": "dpad.generation.output",
    "Engine": "dpad.engine",
    "tune": "dpad.tuning",
    "build_info": "dpad.ops",
}
_MODULES = {
    "presets": "dpad.generation.presets",
    "ops": "dpad.ops",
    "models": "dpad.models",
    "demo": "dpad.demo",
    "plot": "dpad.plot",
}

__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name):
    if name in _MODULES:
        return _import_module(_MODULES[name])
    if name in _PUBLIC:
        return getattr(_import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dpad' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
