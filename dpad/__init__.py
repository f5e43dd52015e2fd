"""dpad: suffix dropout, caches and parallel decoding for masked-diffusion language models.

Public names are resolved on first use, so that ``import dpad`` needs torch only; transformers is
imported by the names that wrap it.
"""

import typing as _typing
from importlib import import_module as _import_module

if _typing.TYPE_CHECKING:  # the same names, for type checkers
    from dpad import demo as demo
    from dpad import models as models
    from dpad import ops as ops
    from dpad import plot as plot
    from dpad.decode import rules as rules
    from dpad.decode.ancestral import Remask as Remask
    from dpad.decode.daedal import Daedal as Daedal
    from dpad.decode.decoder import NaNLogitsError as NaNLogitsError
    from dpad.decode.edit import Edit as Edit
    from dpad.decode.refine import Refine as Refine
    from dpad.decode.suffix import Suffix as Suffix
    from dpad.engine import Engine as Engine
    from dpad.generation import presets as presets
    from dpad.generation.api import generate as generate
    from dpad.generation.config import DPadGenerationConfig as DPadGenerationConfig
    from dpad.generation.custom import custom_generate as custom_generate
    from dpad.generation.likelihood import LogLikelihood as LogLikelihood
    from dpad.generation.likelihood import loglikelihood as loglikelihood
    from dpad.generation.output import DPadOutput as DPadOutput
    from dpad.generation.output import Trace as Trace
    from dpad.generation.reward import Reward as Reward
    from dpad.models.block_hooks import rows_of_pass as rows_of_pass
    from dpad.models.calibration import calibrate as calibrate
    from dpad.models.parts import UnsupportedModelError as UnsupportedModelError
    from dpad.models.quantized import quantize as quantize
    from dpad.ops import build_info as build_info
    from dpad.patching import patch as patch
    from dpad.patching import patched as patched
    from dpad.patching import supports as supports
    from dpad.tuning import tune as tune
else:

    def __getattr__(name: str) -> _typing.Any:
        if name in _MODULES:
            return _import_module(_MODULES[name])
        if name in _PUBLIC:
            return getattr(_import_module(_PUBLIC[name]), name)
        raise AttributeError(f"module 'dpad' has no attribute {name!r}")


__version__ = "0.1.0"

_PUBLIC = {
    "patch": "dpad.patching",
    "patched": "dpad.patching",
    "quantize": "dpad.models.quantized",
    "calibrate": "dpad.models.calibration",
    "supports": "dpad.patching",
    "generate": "dpad.generation.api",
    "custom_generate": "dpad.generation.custom",
    "loglikelihood": "dpad.generation.likelihood",
    "LogLikelihood": "dpad.generation.likelihood",
    "Suffix": "dpad.decode.suffix",
    "Daedal": "dpad.decode.daedal",
    "Edit": "dpad.decode.edit",
    "Remask": "dpad.decode.ancestral",
    "Refine": "dpad.decode.refine",
    "Reward": "dpad.generation.reward",
    "rows_of_pass": "dpad.models.block_hooks",
    "DPadGenerationConfig": "dpad.generation.config",
    "DPadOutput": "dpad.generation.output",
    "Trace": "dpad.generation.output",
    "Engine": "dpad.engine",
    "UnsupportedModelError": "dpad.models.parts",
    "NaNLogitsError": "dpad.decode.decoder",
    "tune": "dpad.tuning",
    "build_info": "dpad.ops",
}
_MODULES = {
    "presets": "dpad.generation.presets",
    "rules": "dpad.decode.rules",
    "ops": "dpad.ops",
    "models": "dpad.models",
    "demo": "dpad.demo",
    "plot": "dpad.plot",
}

__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
