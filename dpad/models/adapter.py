"""All that a decoder may know of a checkpoint, and how it is found.

A family is one small file that says where the parts live in its module tree. It is found by class
*name* over the MRO (remote code gives equal names to distinct classes) and confirmed by a
structural probe; never by a model path or by class identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

import torch
from torch import nn

from dpad.models import fused_projections, linear_layers
from dpad.models.int8_embedding import Int8Embedding
from dpad.models.parts import Head, Layer, Norm, Part, UnsupportedModelError, require

FAMILIES = tuple(
    f"dpad.models.{name}"
    for name in (
        *("llada", "dream", "illada", "llada_moe", "llada2", "rnd1", "sdar", "fast_dllm_v2"),
        *("a2d", "open_dcoder", "bd3lm"),
    )
)


@dataclass
class Adapter:
    """The decoder's whole view of a model.

    Sizes are counts; `rope_full_precision` rotates in float32 and rounds once; `shift` is 1 where
    row i - 1 predicts position i; `end_ids` end a text. `attention` is "full", or "block-causal":
    a position then sees those of its own block of `block_length`, counted from position 0, and of
    all blocks before. `honours_mask` says whether the stock forward looks at its attention mask,
    `output_class` names what it returns, `sampler` the model's own method that decodes, if it has
    one, `forward_takes` arguments without which its own forward has another attention than
    `attention` (...: whatever they are); `untrained_mask`: the mask is no token of the predicted
    distribution, and its logit was never trained (MDLM, arXiv 2406.07524); `constants` give the
    same vectors for every text, as `adaln.Modulation` does; `notes` are lines for the handle's
    report; `strict` refuses hooks that would not be run; `fused` the `FusedProjections` in use, if
    any.
    """

    family: str
    model: nn.Module
    embed: Part
    layers: list[Layer]
    final_norm: Norm
    head: Head
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    rope_full_precision: bool
    max_positions: int
    shift: int
    mask_id: int | None
    end_ids: tuple[int, ...]
    pad_id: int | None
    attention: str = "full"
    block_length: int | None = None
    honours_mask: bool = True
    output_class: str = "CausalLMOutputWithPast"
    sampler: str | None = None
    forward_takes: dict[str, Any] = field(default_factory=dict)
    untrained_mask: bool = False
    constants: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    strict: bool = field(default=True, repr=False)
    fused: Any = field(default=None, repr=False)
    _rope: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = field(
        default_factory=dict, repr=False
    )

    @property
    def weight(self) -> torch.Tensor:
        """The embedding weight: tells the device of the whole model."""
        return self.embed.weight

    @property
    def vocab_size(self) -> int:
        """Ids that the model knows now: as many as the embedding has rows."""
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        """Of the residual."""
        return self.weight.shape[1]

    @property
    def mlp_width(self) -> int:
        """Of an MLP's inner rows, the widest."""
        return max(layer.mlp.inner_width() for layer in self.layers)

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows of a pass, as the embedding gives them."""
        module = self.embed.module
        return module.dtype if isinstance(module, Int8Embedding) else self.weight.dtype

    @property
    def device(self) -> torch.device:
        _check_loaded({self.weight.device})
        return self.weight.device

    def norms(self) -> list[Norm]:
        """All norms, in the order of the forward."""
        return [norm for layer in self.layers for norm in layer.norms()] + [self.final_norm]

    def called_whole(self) -> list[nn.Module]:
        """Norms and MLPs that are called, where otherwise an operator would stand in for them."""
        norms = [norm.module for norm in self.norms()]
        mlps = [layer.mlp.whole_module() for layer in self.layers]
        return [m for m in norms if not linear_layers.only_own_forward(m)] + [
            m for m in mlps if m is not None
        ]

    def called(self) -> list[nn.Module]:
        """The modules that a decoder calls, whatever it does with the others' weights."""
        parts = [self.embed] if self.head.tied else [self.embed, self.head]
        modules = [part.module for part in parts]
        for layer in self.layers:
            modules += [part.module for part in layer.attention.parts()]
            modules += layer.mlp.called()
        return modules + self.called_whole()

    def constant_modules(self) -> list[nn.Module]:
        """The modules behind `constants`."""
        return [part.module for constant in self.constants for part in constant.parts()]

    def unserved(self) -> list[str]:
        """Names of modules with hooks, or a replaced forward, that dpad's forward does not run.

        It runs those of the modules that it calls, and hooks on whole blocks.
        """
        others = modules_of(self.model)[1:]
        if all(map(linear_layers.only_own_forward, others)):
            return []  # as nearly always, and this is asked at every call
        run = {id(module) for called in self.called() for module in called.modules()}
        run.add(id(self.model))
        blocks = {id(layer.hooked_block()) for layer in self.layers}
        return [
            name
            for name, module in self.model.named_modules()
            if id(module) not in run
            and not linear_layers.only_own_forward(module)
            and not (id(module) in blocks and linear_layers.own_forward(module))
        ]

    def refuse_unserved(self, more: Sequence[str] = ()) -> None:
        """Raises UnsupportedModelError with the `unserved` names, unless they were accepted.

        `more`: what else is not run, in words.
        """
        names = self.unserved() if self.strict else []
        found = [f"hooks or a replaced forward on {', '.join(names)}"] if names else []
        found += more if self.strict else ()
        if found:
            raise UnsupportedModelError(
                f"{' and '.join(found)} are not run by dpad's forward: remove them, or patch the "
                "model with strict=False, which skips them"
            )

    def stands(self) -> bool:
        """Whether the modules around norms and projections are still in the model's tree."""
        parts = [self.embed, self.head, self.final_norm]
        for layer in self.layers:
            parts += [*layer.norms(), *layer.attention.parts()]
        tree = set(map(id, modules_of(self.model)))
        return all(id(part.parent) in tree for part in parts)

    def same_as(self, other: "Adapter") -> bool:
        """Whether another adapter says the same of the same modules."""
        left_out = ("notes", "strict", "fused", "_rope")
        names = [f.name for f in fields(self) if f.name not in left_out]
        return all(getattr(self, n) == getattr(other, n) for n in names)

    def products(self, parts: Sequence[Part], x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Outputs of parts that read the same rows `x`, in one product where they are fused."""
        fused = None if self.fused is None else self.fused.products(parts, x)
        return [part(x) for part in parts] if fused is None else fused

    def stack(self, parts: Sequence[Part], x: torch.Tensor) -> torch.Tensor | None:
        """The parts' weights ``[sum(out_features), in_features]`` in one tensor that suits rows
        `x`, or None.
        """
        return None if self.fused is None else self.fused.weight(parts, x)

    def key_limit(self, position: torch.Tensor, length: int) -> torch.Tensor | None:
        """How many of `length` positions each position may look at, int64 like `position`; None
        where it may look at all.
        """
        if self.attention == "full":
            return None
        block = self.block_length or 0
        return ((position // block + 1) * block).clamp(max=length)

    def rope(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each float32 ``[>= length, rotary_dim / 2]``, from the configuration.

        Shorter ones stay, for graphs read them: together they are no longer than the longest.
        """
        tables = self._rope.setdefault(self.device, [])
        have = tables[-1] if tables else None
        if have is None or have[0].shape[0] < length:
            # Doubled as it grows: each size is a graph of its own under torch.compile.
            size = max(4096, 1 << max(length - 1, 0).bit_length())
            if length <= self.max_positions:
                size = min(self.max_positions, size)
            index = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32, device=self.device)
            inverse = 1.0 / (self.rope_theta ** (index / self.rotary_dim))
            position = torch.arange(size, dtype=torch.float32, device=self.device)
            angle = position[:, None] * inverse
            have = angle.cos(), angle.sin()
            tables.append(have)
        return have


def unwrap(model: Any) -> Any:
    """The model inside torch.compile, DistributedDataParallel and PEFT wrappers.

    Raises UnsupportedModelError for PEFT methods that put virtual tokens before the prompt.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        names = class_names(model)
        if inner is None and {"DistributedDataParallel", "DataParallel"} & set(names):
            inner = model.module
        if inner is None and {"PeftModel", "PeftMixedModel"} & set(names):
            for config in model.peft_config.values():
                require(not config.is_prompt_learning, "PEFT prompt learning", config.peft_type)
            inner = model.base_model.model
        if inner is None:
            return model
        model = inner


def class_names(model: object) -> list[str]:
    """Class names over the MRO, most derived first."""
    return [c.__name__ for c in type(model).__mro__]


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module of a tree once, itself first: `nn.Module.modules` without names, which take most
    of its time.
    """
    found, known = [model], {id(model)}
    for module in found:  # grows meanwhile
        for _, child in module._modules.items():
            if child is not None and id(child) not in known:
                known.add(id(child))
                found.append(child)
    return found


def snapshot(model: torch.nn.Module) -> Any:
    """What tells whether a model is still the one that was looked at: its modules, each as it is,
    what its configurations say, dtype and device.
    """
    configs = [getattr(m, "config", None) for m in (model, *model.children())]
    weight = next(model.parameters(), None)
    kind = None if weight is None else (weight.dtype, weight.device)
    return modules_of(model), [dict(vars(c)) for c in configs if hasattr(c, "__dict__")], kind


def find_adapter(model: nn.Module) -> Adapter:
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
            _check_attention(adapter)
            check_tensors(adapter)
            adapter.fused = fused_projections.of_layers(adapter.layers, copies=False)
            if adapter.fused is not None:
                adapter.fused.refresh()
            return adapter
        known[family.FAMILY] = family.CLASS_NAMES
    looked = "; ".join(f"{family}: {', '.join(names)}" for family, names in known.items())
    raise UnsupportedModelError(
        f"dpad does not know {type(model).__name__} (looked for a class named {looked} in its MRO)"
    )


def _check_attention(adapter: Adapter) -> None:
    """What is not known would be answered with another attention than the model's."""
    kinds, block = ("full", "block-causal"), adapter.block_length
    require(adapter.attention in kinds, "attention", adapter.attention)
    if adapter.attention == "block-causal":
        require(isinstance(block, int) and block > 0, "block_length", block)


def _check_loaded(devices: set[torch.device]) -> None:
    if any(d.type == "meta" for d in devices):
        raise UnsupportedModelError(
            "the model has parameters on the meta device (offloaded or not loaded): load all of "
            "them onto one device first"
        )


def check_tensors(adapter: Adapter) -> None:
    """Raises UnsupportedModelError for devices, dtypes or norms that a pass cannot have."""
    _check_devices(adapter)
    _check_dtypes(adapter)
    for norm in adapter.norms():
        norm.eps  # noqa: B018  it raises where there is none


def _check_devices(adapter: Adapter) -> None:
    devices = {p.device for p in adapter.model.parameters()}
    _check_loaded(devices)
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise UnsupportedModelError(f"the model is spread over {names}: dpad decodes on one device")


def _check_dtypes(adapter: Adapter) -> None:
    """The rows of a pass have one dtype: that of the embedding, the norms and the caches."""
    if adapter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UnsupportedModelError(
            f"the model is {adapter.dtype}: dpad decodes in float32, bfloat16 or float16"
        )
    for norm in adapter.norms():
        if norm.module.weight.dtype != adapter.dtype:
            raise UnsupportedModelError(
                f"a norm's weight is {norm.module.weight.dtype} and the embedding {adapter.dtype}: "
                "convert the model to one dtype first (model.to(dtype))"
            )
