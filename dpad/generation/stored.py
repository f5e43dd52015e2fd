"""What a model brings along: `model.generation_config`, or its folder's generation_config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpad.generation.config import DPadGenerationConfig
from dpad.generation.names import CLASS_KEY

FILE_NAME = "generation_config.json"
# Fields that mean the same in a configuration that is not dpad's.
SHARED = ("max_new_tokens", "eos_token_id", "pad_token_id", "mask_token_id")
# Names that only a configuration of dpad's has.
OWN = (
    *(CLASS_KEY, "block_length", "commit", "confidence_threshold", "entropy_bound", "suffix"),
    "row_keys",
)


def stored_options(model: object) -> dict[str, Any]:
    """Field -> value of the defaults that the model brings along; empty if it brings none.

    In this order: a `DPadGenerationConfig` as ``model.generation_config``; one in the folder that
    the model was loaded from; any other ``model.generation_config``, of which only the length and
    the special tokens hold: temperature and the like belong to another sampler; the same of the
    file, where Transformers made that configuration of the model's own. Tokens that were copied
    from the model's configuration say nothing new.

    Raises:
        ValueError: a file of dpad's that holds something else, with its path.
    """
    config = getattr(model, "generation_config", None)
    if isinstance(config, DPadGenerationConfig):
        return config.given()
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    path = Path(name or "") / FILE_NAME
    saved = _read(path) if name and path.is_file() else {}
    if any(n in saved for n in OWN):
        try:
            return DPadGenerationConfig(**saved).given()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
    options: dict[str, Any] = {}
    if config is None or getattr(config, "_from_model_config", False):
        options = news(model, {n: saved.get(n) for n in SHARED})
    if config is not None:
        options |= news(model, {n: getattr(config, n, None) for n in SHARED})
    return options


def news(model: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are given and do not just repeat the model's configuration."""
    known = getattr(model, "config", None)
    repeated = {n for n in SHARED[1:] if values.get(n) == getattr(known, n, None)}
    return {n: v for n, v in values.items() if v is not None and n not in repeated}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected an object of options, got {values!r}")
    return values
