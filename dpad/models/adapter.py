"""All that a decoder may know of a checkpoint, and how it is found.

A family is one small file that says where the parts live in its module tree. It is found by class
*name* over the MRO (remote code gives equal names to distinct classes) and confirmed by a
structural probe; never by a model path or by class identity.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

import torch
from torch import nn

FAMILIES = ("dpad.models.llada", "dpad.models.dream")


class UnsupportedModelError(ValueError):
    """The model's module tree or configuration is not one that dpad can decode."""


@dataclass(frozen=True)
class Norm:
    """An RMS norm: its module (weight ``[width]``) and epsilon."""

    module: nn.Module
    eps: float


@dataclass(frozen=True)
class Layer:
    """One transformer layer. Projections are the user's own modules: called, not replaced."""

    attention_norm: Norm
    q: Callable
    k: Callable
    v: Callable
    o: Callable
    mlp_norm: Norm
    gate: Callable
    up: Callable
    down: Callable


@dataclass
class Adapter:
    """The decoder's whole view of a model.

    Sizes are counts; `rope_full_precision` rotates in float32 and rounds once; `shift` is 1 where
    row i - 1 predicts position i; `end_ids` end a text; `honours_mask` says whether the stock
    forward looks at its attention mask, `output_class` names what it returns; `notes` are lines for
    the handle's report.
    """

    family: str
    model: nn.Module
    embed: Callable
    layers: list[Layer]
    final_norm: Norm
    head: Callable
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    rope_full_precision: bool
    max_positions: int
    vocab_size: int
    shift: int
    mask_id: int | None
    end_ids: tuple[int, ...]
    pad_id: int | None
    honours_mask: bool = True
    output_class: str = "CausalLMOutputWithPast"
    notes: list[str] = field(default_factory=list)
    _rope: dict = field(default_factory=dict, repr=False)

    @property
    def weight(self):
        """The embedding weight: tells dtype and device of the whole model."""
        return self.embed.weight

    @property
    def dtype(self):
        return self.weight.dtype

    @property
    def device(self):
        return self.weight.device

    def rope(self, length):
        """cos and sin, each float32 ``[>= length, rotary_dim / 2]``, from the configuration."""
        have = self._rope.get(self.device)
        if have is None or have[0].shape[0] < length:
            size = max(length, min(self.max_positions, 4096))
            index = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32, device=self.device)
            inverse = 1.0 / (self.rope_theta ** (index / self.rotary_dim))
            position = torch.arange(size, dtype=torch.float32, device=self.device)
            angle = position[:, None] * inverse
            have = self._rope[self.device] = (angle.cos(), angle.sin())
        return have


def unwrap(model):
    """The model inside torch.compile, DistributedDataParallel and PEFT wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if inner is None and any(c.__name__ == "PeftModel" for c in type(model).__mro__):
            inner = model.base_model.model
        if inner is None:
            return model
        model = inner


def class_names(model):
    """Class names over the MRO, most derived first."""
    return [c.__name__ for c in type(model).__mro__]


def find_adapter(model):
    """The `Adapter` of a live model.

    Raises:
        TypeError: `model` is not a torch module.
        UnsupportedModelError: no family knows its class, or the tree is not as expected; the
            message lists what was looked for.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    model = unwrap(model)
    known = {}
    for name in FAMILIES:
        family = import_module(name)
        if set(family.CLASS_NAMES) & set(class_names(model)):
            adapter = family.adapt(model)
            _check_devices(adapter)
            _check_dtypes(adapter)
            return adapter
        known[family.FAMILY] = family.CLASS_NAMES
    looked = "; ".join(f"{family}: {', '.join(names)}" for family, names in known.items())
    raise UnsupportedModelError(
        f"dpad does not know {type(model).__name__} (looked for a class named {looked} in its MRO)"
    )


def _check_devices(adapter):
    devices = {p.device for p in adapter.model.parameters()}
    if any(d.type == "meta" for d in devices):
        raise UnsupportedModelError(
            "the model has parameters on the meta device (offloaded or not loaded): load all of "
            "them onto one device first"
        )
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise UnsupportedModelError(f"the model is spread over {names}: dpad decodes on one device")


def _check_dtypes(adapter):
    """The rows of a pass have one dtype: that of the embedding, the norms and the caches."""
    if adapter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UnsupportedModelError(
            f"the model is {adapter.dtype}: dpad decodes in float32, bfloat16 or float16"
        )
    norms = [n for layer in adapter.layers for n in (layer.attention_norm, layer.mlp_norm)]
    for norm in (*norms, adapter.final_norm):
        if norm.module.weight.dtype != adapter.dtype:
            raise UnsupportedModelError(
                f"a norm's weight is {norm.module.weight.dtype} and the embedding {adapter.dtype}: "
                "convert the model to one dtype first (model.to(dtype))"
            )


def need(model, path):
    """The submodule or attribute at a dotted path, or an UnsupportedModelError naming the path."""
    found = model
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part, None)
        if found is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no '{path}', which a model of that name should have"
            )
    return found


def require(condition, what, value):
    """Raises UnsupportedModelError unless `condition`."""
    if not condition:
        raise UnsupportedModelError(f"dpad does not support {what} = {value!r}")
