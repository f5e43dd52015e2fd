"""What Transformers, PEFT and pipelines look for on a model, for classes without its `generate`."""

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from dpad.models.hf import checkpoint
from dpad.values import Kind

FILE_NAME = "generation_config.json"
# Arguments of `from_pretrained` that a configuration has fields of the same name for.
_OF_THE_LOADER = ("attn_implementation", "dtype", "torch_dtype", "quantization_config")
# Model -> the fields of its configuration, and what was made of them.
_DERIVED: WeakKeyDictionary[PreTrainedModel, tuple[dict[str, Any], GenerationConfig]]
_DERIVED = WeakKeyDictionary()


class NativeConfig(PretrainedConfig):
    """A configuration that is read by `dpad.models.hf.checkpoint`."""

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: checkpoint.Name, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(fields of the config.json, what is left of the arguments); errors as `read_config`."""
        checkpoint.check_arguments(kwargs)
        source = checkpoint.source_of(kwargs)
        found = checkpoint.read_config(pretrained_model_name_or_path, source)
        return found, {n: v for n, v in kwargs.items() if n not in source}


def check_fields(title: str, config: PretrainedConfig, kinds: Mapping[str, Kind]) -> None:
    """Raises ValueError for a field that is not of its kind (`dpad.values`)."""
    for name, kind in kinds.items():
        setattr(config, name, kind(f"{title}.{name}", getattr(config, name)))


if TYPE_CHECKING:  # what it is mixed into
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


class NativeModel(_Model):
    """Mixed into the native classes.

    Loading looks at a checkpoint's files first (`dpad.models.hf.checkpoint`). Saving writes
    generation_config.json beside the weights, which Transformers leaves out here: it is
    ``model.generation_config`` if that is set, else the file of the folder that the model was
    loaded from. A patched model can do what pipelines ask for.
    """

    _saving = False

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: checkpoint.Name | None,
        *args: Any,
        config: PretrainedConfig | checkpoint.Name | None = None,
        quantization: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """As in Transformers, from safetensors files only and with one attention ("sdpa").

        ``quantization="int8"`` makes the linear layers 8-bit as they are read, as `dpad.quantize`
        does afterwards: the peak of memory is the 8-bit model and one tensor. It takes `dtype`,
        `head`, `embedding`, `keep` and `smoothing` besides. A checkpoint that was saved 8-bit is
        found to be one.

        Raises:
            TypeError: `trust_remote_code`, or an argument that is not taken with quantization.
            OSError: no such checkpoint, or file of it.
            ValueError: a file that cannot be read or says something that is refused, a weight of
                another shape than the configuration asks for, weights that are missing (unless
                `output_loading_info` asks for the list of them); the message names file and weight.
        """
        from dpad.models.hf import quantized  # not before it is needed: it brings the operators

        name = pretrained_model_name_or_path
        checkpoint.check_arguments(kwargs)
        kwargs.update(attn_implementation="sdpa", use_safetensors=True)
        informed = kwargs.pop("output_loading_info", False)
        if name is not None:
            source = checkpoint.source_of(kwargs)
            wishes = {} if quantization is None else quantized.options_of(kwargs)
            config, kwargs = cls._config(name, config, source, kwargs)
            paths = checkpoint.check_files(name, source, kwargs.get("variant"))
            if quantization is not None or quantized.is_quantized(config):
                wishes["scheme"] = quantization
                return quantized.from_pretrained(cls, name, config, paths, wishes, args, kwargs)
            loose = kwargs.get("ignore_mismatched_sizes") or _quantized(config, kwargs)
            shapes = {} if loose else checkpoint.shapes_of(cls, config)
            checkpoint.check_headers(paths, shapes)
        model, info = super().from_pretrained(
            name, *args, config=config, output_loading_info=True, **kwargs
        )
        if informed:
            return cast("Self", (model, info))  # as Transformers has it, whose type is the model's
        checkpoint.check_missing(name, info)
        return model

    @classmethod
    def _config(
        cls,
        name: checkpoint.Name,
        config: PretrainedConfig | checkpoint.Name | None,
        source: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> tuple[PretrainedConfig, dict[str, Any]]:
        """(configuration, arguments that are none of its fields)."""
        if isinstance(config, PretrainedConfig):
            return config, kwargs
        kept = {n: kwargs[n] for n in (*_OF_THE_LOADER, *source) if n in kwargs}
        fields = {n: v for n, v in kwargs.items() if n not in kept}
        found, rest = cls.config_class.from_pretrained(
            name if config is None else config, return_unused_kwargs=True, **source, **fields
        )
        return found, {**rest, **kept}

    def save_pretrained(
        self, save_directory: checkpoint.Name, is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """As in Transformers."""
        self._saving = True
        try:
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        finally:
            del self._saving
        if not is_main_process:
            return
        config = vars(self).get("generation_config")
        source = Path(getattr(self.config, "_name_or_path", None) or "") / FILE_NAME
        target = Path(save_directory) / FILE_NAME
        derived = getattr(config, "_from_model_config", False)  # says nothing of its own
        if isinstance(config, GenerationConfig) and not derived:
            config.save_pretrained(save_directory)
        elif (
            self.config._name_or_path and source.is_file() and source.resolve() != target.resolve()
        ):
            shutil.copyfile(source, target)

    def post_init(self) -> None:
        super().post_init()
        if vars(self).get("generation_config", self) is None:  # transformers 4 sets it to None
            del self.generation_config

    def can_generate(self) -> bool:
        """Whether there is a `generate`: a patched model has one (asked by pipelines)."""
        return "generate" in vars(self) and not self._saving

    def __getattr__(self, name: str) -> Any:
        """What is looked for on an instance, but would say something else on the class."""
        if name == "prepare_inputs_for_generation":  # of a class it would claim a `generate`
            return _prepared
        generates = "generate" in vars(self) or hasattr(type(self), "generate")
        if name == "generation_config" and generates:
            return _derived(self)
        if name in ("generate", "generation_config"):
            raise AttributeError(
                f"{type(self).__name__} has no {name!r} of its own: dpad.patch(model) gives it "
                "one, or call dpad.generate(model, ...)"
            )
        return super().__getattr__(name)


def _derived(model: PreTrainedModel) -> GenerationConfig:
    """What Transformers makes of the model's configuration; the same object while that is as it
    was, for making it takes longer than a forward of a small model.
    """
    fields = vars(model.config)
    seen, config = _DERIVED.get(model, (None, None))
    if config is None or seen != fields:
        config = GenerationConfig.from_model_config(model.config)
        _DERIVED[model] = copy.deepcopy(fields), config
    return config


def refuse_inputs(
    model: PreTrainedModel,
    past_key_values: object,
    labels: object,
    use_cache: bool | None,
    output_attentions: bool | None,
) -> None:
    """ValueError for what the released signatures take and these forwards cannot give."""
    if output_attentions is None:
        output_attentions = model.config.output_attentions
    refused = {
        "past_key_values": (past_key_values is not None, "this forward keeps nothing"),
        "labels": (
            labels is not None,
            "the loss needs the noise level: compute it from the logits",
        ),
        "use_cache": (bool(use_cache), "this forward keeps nothing"),
        "output_attentions": (bool(output_attentions), "they are never made"),
    }
    for name, (given, why) in refused.items():
        if given:
            raise ValueError(f"{name} is not supported by {type(model).__name__}: {why}")


def _prepared(
    input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
) -> dict[str, Tensor | None]:
    """Arguments of the forward for a prompt, as PEFT's wrapper for causal models asks for them."""
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _quantized(config: PretrainedConfig, kwargs: dict[str, Any]) -> bool:
    given = kwargs.get("quantization_config"), getattr(config, "quantization_config", None)
    return any(value is not None for value in given)
