"""A counting task with an exact checker, and the tiny LLaDA, Dream and SDAR trained on it."""

from dpad.demo.task import (
    END_ID,
    MASK_ID,
    MODELS,
    VOCABULARY,
    Problem,
    decode,
    encode,
    load,
    model_folder,
    problems,
    solve,
)

__all__ = [
    "END_ID",
    "MASK_ID",
    "MODELS",
    "VOCABULARY",
    "Problem",
    "decode",
    "encode",
    "load",
    "model_folder",
    "problems",
    "solve",
]
