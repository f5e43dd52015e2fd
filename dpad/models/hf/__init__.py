"""Native Hugging Face classes: the released weights and tokenizers without remote code.

`AutoModel.from_pretrained` finds the class from the checkpoint's config.json, `AutoTokenizer` from
its tokenizer_config.json. Nothing is registered in Transformers' own Auto classes, so stock classes
in the same process stay what they are.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dpad.models.hf.a2d import (
        A2DLlamaConfig,
        A2DLlamaLMHeadModel,
        A2DQwen2Config,
        A2DQwen2LMHeadModel,
        A2DQwen3Config,
        A2DQwen3LMHeadModel,
    )
    from dpad.models.hf.bd3lm import BD3LM, BD3LMConfig
    from dpad.models.hf.checkpoint import Name
    from dpad.models.hf.dream import DreamConfig, DreamModel
    from dpad.models.hf.fast_dllm_v2 import Fast_dLLM_QwenConfig, Fast_dLLM_QwenForCausalLM
    from dpad.models.hf.illada import ILLaDAConfig, ILLaDAForCausalLM
    from dpad.models.hf.interface import NativeConfig, NativeModel
    from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
    from dpad.models.hf.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
    from dpad.models.hf.llada_moe import LLaDAMoEConfig, LLaDAMoEModelLM
    from dpad.models.hf.rnd1 import RND1LM, RND1Config
    from dpad.models.hf.sdar import SDARConfig, SDARForCausalLM, SDARMoeConfig, SDARMoeForCausalLM


__all__ = [
    "BD3LM",
    "RND1LM",
    "A2DLlamaConfig",
    "A2DLlamaLMHeadModel",
    "A2DQwen2Config",
    "A2DQwen2LMHeadModel",
    "A2DQwen3Config",
    "A2DQwen3LMHeadModel",
    "AutoConfig",
    "AutoModel",
    "AutoTokenizer",
    "BD3LMConfig",
    "DreamConfig",
    "DreamModel",
    "Fast_dLLM_QwenConfig",
    "Fast_dLLM_QwenForCausalLM",
    "ILLaDAConfig",
    "ILLaDAForCausalLM",
    "LLaDA2MoeConfig",
    "LLaDA2MoeModelLM",
    "LLaDAConfig",
    "LLaDAMoEConfig",
    "LLaDAMoEModelLM",
    "LLaDAModelLM",
    "RND1Config",
    "SDARConfig",
    "SDARForCausalLM",
    "SDARMoeConfig",
    "SDARMoeForCausalLM",
]

# (model_type, module, model class, config class). The model type and the architecture's name must
# both match: unrelated families share a model type.
_CLASSES = (
    ("llada", "llada", "LLaDAModelLM", "LLaDAConfig"),
    ("llada", "llada_moe", "LLaDAMoEModelLM", "LLaDAMoEConfig"),
    ("illada", "illada", "ILLaDAForCausalLM", "ILLaDAConfig"),
    ("Dream", "dream", "DreamModel", "DreamConfig"),
    ("sdar", "sdar", "SDARForCausalLM", "SDARConfig"),
    ("sdar_moe", "sdar", "SDARMoeForCausalLM", "SDARMoeConfig"),
    ("Fast_dLLM_Qwen", "fast_dllm_v2", "Fast_dLLM_QwenForCausalLM", "Fast_dLLM_QwenConfig"),
    ("llada2_moe", "llada2", "LLaDA2MoeModelLM", "LLaDA2MoeConfig"),
    ("rnd1", "rnd1", "RND1LM", "RND1Config"),
    ("a2d-qwen3", "a2d", "A2DQwen3LMHeadModel", "A2DQwen3Config"),
    ("a2d-qwen2", "a2d", "A2DQwen2LMHeadModel", "A2DQwen2Config"),
    ("a2d-llama", "a2d", "A2DLlamaLMHeadModel", "A2DLlamaConfig"),
    ("bd3lm", "bd3lm", "BD3LM", "BD3LMConfig"),
)
# Tokenizers released as remote code -> the Transformers class that they restate. Dream's is Qwen2's
# byte-level BPE (the same normalisation, splitting and merges) with other special tokens.
_TOKENIZERS = {"DreamTokenizer": "Qwen2TokenizerFast"}


if not TYPE_CHECKING:  # which has imported them

    def __getattr__(name: str) -> Any:
        for _, module, *classes in _CLASSES:
            if name in classes:
                return getattr(_import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _find(config: dict[str, Any]) -> tuple[type["NativeModel"], type["NativeConfig"]]:
    """(model class, config class) for the dict of a config.json; ValueError if none fits."""
    model_type = config.get("model_type")
    family = {row[2]: row[1:] for row in _CLASSES if row[0] == model_type}
    # A config without architectures is one of our own defaults or an adapter's: one class fits.
    names = config.get("architectures") or list(family)[:1]
    for name in names:
        if name in family:
            place, model_class, config_class = family[name]
            module = _import_module(f"{__name__}.{place}")
            return getattr(module, model_class), getattr(module, config_class)
    known = ", ".join(f"{row[2]} ({row[0]})" for row in _CLASSES)
    raise ValueError(
        f"no native class for architectures={config.get('architectures')!r}, "
        f"model_type={model_type!r}; known are: {known}"
    )


def _resolve(
    name_or_path: "Name", kwargs: dict[str, Any]
) -> tuple[type["NativeModel"], type["NativeConfig"]]:
    from dpad.models.hf import checkpoint

    checkpoint.check_arguments(kwargs)
    return _find(checkpoint.read_config(name_or_path, checkpoint.source_of(kwargs)))


class AutoConfig:
    """Finds the native configuration class of a checkpoint."""

    @staticmethod
    def from_pretrained(name_or_path: "Name", **kwargs: Any) -> "NativeConfig":
        """Configuration of a repository or folder; keyword arguments overwrite its fields.

        Raises ValueError for an architecture without a native class (the message lists the known
        ones) and TypeError for `trust_remote_code`.
        """
        _, config_class = _resolve(name_or_path, kwargs)
        return config_class.from_pretrained(name_or_path, **kwargs)


class AutoModel:
    """Finds the native model class of a checkpoint and loads it."""

    @staticmethod
    def from_pretrained(name_or_path: "Name", *args: Any, **kwargs: Any) -> "NativeModel":
        """Model in eval mode from a repository or folder; arguments as in Transformers, and
        ``quantization="int8"`` (see `NativeModel.from_pretrained`).

        Without `dtype` the weights keep the checkpoint's, on every Transformers version. Raises as
        `NativeModel.from_pretrained`, and ValueError for an architecture without a native class
        (the message lists the known ones).
        """
        model_class, _ = _resolve(name_or_path, kwargs)
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", "auto")
        return model_class.from_pretrained(name_or_path, *args, **kwargs)


def hollow(
    name_or_path: "Name", dtype: "torch.dtype | str" = "auto", **source: Any
) -> "PreTrainedModel":
    """A model of a checkpoint's shapes, whose weights are zeros that take no memory.

    Nothing but its config.json is read. `dtype` "auto" is what that names, or float32; `source`
    says where the files come from, as in Transformers.

    Raises:
        OSError, ValueError: as `AutoModel.from_pretrained`; a checkpoint of quantised weights.
    """
    from dpad.models.hf import checkpoint

    model_class, config_class = _resolve(name_or_path, source)
    config = config_class.from_pretrained(name_or_path, **source)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{str(name_or_path)!r} holds quantised weights: load it")
    named = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    wanted = checkpoint.dtype_of(named or "float32" if dtype == "auto" else dtype)
    return checkpoint.hollow(model_class, config, wanted)


class AutoTokenizer:
    """Finds the tokenizer class of a checkpoint and loads it."""

    @staticmethod
    def from_pretrained(
        name_or_path: "Name", *args: Any, **kwargs: Any
    ) -> "PreTrainedTokenizerBase":
        """Tokenizer of a repository or folder; arguments as in Transformers.

        A tokenizer that was released as remote code is loaded by the Transformers class with the
        same rules, from the same files; saved again, it no longer refers to that code.

        Raises:
            TypeError: `trust_remote_code`.
            OSError: no tokenizer there.
            ValueError: remote code without such a class; a file that cannot be read, by its path.
        """
        from dpad.models.hf import checkpoint

        checkpoint.check_arguments(kwargs)
        source = checkpoint.source_of(kwargs)
        checkpoint.check_tokenizer(name_or_path, source)
        with checkpoint.naming(f"{str(name_or_path)!r}: its tokenizer cannot be read"):
            return AutoTokenizer._load(name_or_path, source, *args, **kwargs)

    @staticmethod
    def _load(
        name_or_path: "Name", source: dict[str, Any], *args: Any, **kwargs: Any
    ) -> "PreTrainedTokenizerBase":
        import transformers
        from transformers.models.auto.tokenization_auto import get_tokenizer_config

        released = get_tokenizer_config(name_or_path, **source).get("tokenizer_class")
        if released in _TOKENIZERS:
            kwargs.pop("config", None)
            found = getattr(transformers, _TOKENIZERS[released])
            with _quiet_about_the_class():
                tokenizer = found.from_pretrained(name_or_path, *args, **kwargs)
            tokenizer.init_kwargs.pop("auto_map", None)
            return tokenizer
        if "config" not in kwargs:
            # With it, none is looked up by a model type that Transformers does not know. Without:
            # a folder of tokenizer files only, or of another model.
            with suppress(OSError, ValueError):
                kwargs["config"] = AutoConfig.from_pretrained(name_or_path, **source)
        find = transformers.AutoTokenizer.from_pretrained
        return find(name_or_path, *args, trust_remote_code=False, **kwargs)


@contextmanager
def _quiet_about_the_class() -> Iterator[None]:
    """Transformers warns where the class differs from the released one: here it is meant to."""
    log = logging.getLogger("transformers.tokenization_utils_base")
    other = lambda record: "is not the same type as the class" not in str(record.msg)  # noqa: E731
    log.addFilter(other)
    try:
        yield
    finally:
        log.removeFilter(other)
