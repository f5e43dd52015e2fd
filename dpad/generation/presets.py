"""Defaults per family and variant, and the published settings per model and task, by name."""

from typing import TYPE_CHECKING, Any

from dpad.decode.edit import Edit
from dpad.decode.suffix import Suffix

if TYPE_CHECKING:
    from dpad.generation.config import DPadGenerationConfig
    from dpad.models.adapter import Adapter

# Used where no values were published for a variant: nothing is approximated.
SAFE: dict[str, Any] = {
    "max_new_tokens": 256,
    "block_length": 32,
    "steps": None,
    "suffix": Suffix("all"),
    "cache": "none",
    "early_stop": True,
}

# K/V of finished blocks is exact, and nothing behind a block is seen.
BLOCK_CAUSAL: dict[str, Any] = {"suffix": Suffix("none"), "cache": "prefix"}


def _gaussian(decay: float, scale: float, window: int) -> Suffix:
    return Suffix("gaussian", window=window, decay=decay, scale=scale)


def _published(
    length: int, decay: float, scale: float, window: int, threshold: float | None = 0.9
) -> dict[str, Any]:
    return {
        "max_new_tokens": length,
        "block_length": 32,
        "confidence_threshold": threshold,
        "suffix": _gaussian(decay, scale, window),
        "cache": "none",
        "early_stop": True,
    }


# Measured on the shipped models, see benchmarks/results/summary.md.
_TINY = {
    "max_new_tokens": 256,
    "block_length": 32,
    "confidence_threshold": 0.9,
    "suffix": Suffix("gaussian", window=64, decay=3.0, scale=1.6, near=16),
    "cache": "none",
    "early_stop": True,
}

_TINY_BLOCKS = {
    "max_new_tokens": 256,
    "block_length": 16,
    "confidence_threshold": 0.9,
    "early_stop": True,
    **BLOCK_CAUSAL,
}

# Variant (last part of the name a checkpoint was loaded from) -> defaults. DPad, arXiv 2508.14148.
VARIANTS = {
    "LLaDA-8B-Instruct": _published(256, 4.0, 2.0, 256),
    "LLaDA-1.5": _published(256, 3.0, 1.6, 256),
    "Dream-v0-Base-7B": _published(256, 4.0, 1.6, 256),
    "tiny_llada": _TINY,
    "tiny_dream": _TINY,
    "tiny_sdar": _TINY_BLOCKS,
}


def _by_blocks(threshold: float, **more: Any) -> dict[str, Any]:
    return {**BLOCK_CAUSAL, "early_stop": True, "confidence_threshold": threshold, **more}


_DYNAMIC = {"alg": "low_confidence_dynamic", "temperature": 1.0}
_SUB_BLOCKS = {"max_new_tokens": 2048, "block_length": 32, "sub_block_length": 8}

# The same of models that decode by blocks or are routed, from the defaults of their own programs.
MORE_PRESETS = {
    # arXiv 2510.06303: the script's threshold, and that of JetEngine and LMDeploy.
    "sdar/script": _by_blocks(0.85, max_new_tokens=128, **_DYNAMIC),
    "sdar/engine": _by_blocks(0.9, max_new_tokens=128, **_DYNAMIC),
    # arXiv 2509.26328: the harness's, and that of the accuracy runs.
    "fast-dllm-v2/harness": _by_blocks(0.9, **_SUB_BLOCKS),
    "fast-dllm-v2/accuracy": _by_blocks(1.0, **_SUB_BLOCKS),
    # `generate` of the released LLaDA2.0.
    "llada2/released": _by_blocks(0.95, max_new_tokens=2048, block_length=32),
    # The same of LLaDA2.1, arXiv 2602.08676.
    "llada2.1/released": _by_blocks(0.95, max_new_tokens=2048, block_length=32, edit=Edit()),
    # RND1's generation configuration.
    "rnd1/released": {
        "max_new_tokens": 256,
        "block_length": 256,
        "steps": 256,
        "alg": "entropy",
        "temperature": 0.1,
        "suffix": Suffix("all"),
        "cache": "none",
        "early_stop": False,
    },
}

# "model/task" -> options, from the release scripts of DPad (arXiv 2508.14148); `near` is 0 in all.
PRESETS = {
    "llada-8b-instruct/gsm8k": _published(256, 4.0, 2.0, 256),
    "llada-8b-instruct/math": _published(256, 4.0, 2.0, 256),
    "llada-8b-instruct/humaneval": _published(512, 3.0, 2.3, 512),
    "llada-8b-instruct/mbpp": _published(512, 3.0, 2.3, 128),
    "llada-1.5/gsm8k": _published(256, 3.0, 1.6, 256),
    "llada-1.5/math": _published(256, 3.0, 1.6, 256),
    "llada-1.5/humaneval": _published(512, 3.0, 2.3, 128),
    "llada-1.5/humaneval-sequential": {
        **_published(512, 3.0, 1.6, 128, threshold=None),
        "steps": 512,
    },
    "llada-1.5/mbpp": _published(512, 3.0, 1.6, 512),
    "llada-1.5/gsm8k-1024": _published(1024, 3.0, 1.6, 256),
    "dream-base/gsm8k": _published(256, 4.0, 1.6, 256),
    "dream-base/math": _published(256, 4.0, 1.6, 128),
    "dream-base/humaneval": _published(512, 3.0, 2.3, 128),
    "dream-base/mbpp": _published(512, 3.0, 1.6, 128),
    "dream-base/gsm8k-1024": _published(1024, 3.0, 2.3, 128),
    "dream-base/gsm8k-2048": _published(2048, 3.0, 2.3, 128),
    **MORE_PRESETS,
}


def variant_of(model: object) -> str | None:
    """The key of `VARIANTS` that the model was loaded as, or None."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    last = name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    return last if last in VARIANTS else None


def defaults_for(model: object, adapter: "Adapter") -> dict[str, Any]:
    """Defaults of a model: its variant's, or the safe ones of its attention."""
    safe: dict[str, Any] = SAFE
    if adapter.attention == "block-causal":
        safe = {**SAFE, **BLOCK_CAUSAL, "block_length": adapter.block_length}
    return VARIANTS.get(variant_of(model) or "", safe)


def names() -> list[str]:
    """Names of all published presets."""
    return sorted(PRESETS)


def get(name: str, **changes: Any) -> "DPadGenerationConfig":
    """The `DPadGenerationConfig` of a preset, with `changes`; KeyError listing the names.

    A commit rule among the changes takes the place of the published one.
    """
    from dpad.generation.config import RULES, DPadGenerationConfig
    from dpad.generation.names import resolve_names

    if name not in PRESETS:
        raise KeyError(f"no preset {name!r}; known: {', '.join(names())}")
    values, changes = PRESETS[name], resolve_names(changes)
    if any(changes.get(n) is not None for n in RULES):
        values = {n: v for n, v in values.items() if n not in (*RULES, "alg")}
    return DPadGenerationConfig(**{**values, **changes})
