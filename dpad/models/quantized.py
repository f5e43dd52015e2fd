"""`quantize`: 8-bit products for one live model, and back again."""

from collections.abc import Iterable, Mapping
from typing import Any, Self, cast

import torch
from torch import nn

from dpad.models import linear_layers
from dpad.models.adapter import Adapter, find_adapter
from dpad.models.int8_embedding import Int8Embedding
from dpad.models.int8_linear import Int8Linear, Int8Module
from dpad.models.parts import UnsupportedModelError
from dpad.values import entries, flag, shown

SCHEMES = ("int8",)
METHOD = "dpad_int8"  # the quant_method of a saved configuration
# torch's own product of bytes: rows, and what their lengths are multiples of (torch._int_mm).
_CUDA_MULTIPLE = 8


class Quantized:
    """What `quantize` did to one model. Prints what it is; a context manager that undoes it.

    `layers` names the layers that are 8-bit now, `kept` the linear layers of the decoder that are
    not. It alone holds the modules that stood there before: `remove` puts those back, the same
    objects with the same parameters; once the handle is dropped they are freed.
    """

    def __init__(
        self,
        model: nn.Module,
        replaced: dict[str, tuple[nn.Module, nn.Module]],
        kept: list[str],
        norm: nn.Module,
    ) -> None:
        self.model, self.kept, self._norm = model, kept, norm
        self._place = _place(norm)
        self._replaced = replaced  # name -> (module before, module now)
        self._config = _set_config(model)

    @property
    def layers(self) -> list[str]:
        return list(self._replaced)

    @property
    def active(self) -> bool:
        """True until `remove`."""
        return bool(self._replaced)

    def nbytes(self) -> tuple[int, int]:
        """(bytes of the layers before, bytes of them now)."""
        pairs = self._replaced.values()
        before, now = (sum(_nbytes(pair[i]) for pair in pairs) for i in (0, 1))
        return before, now

    def remove(self) -> None:
        """Puts the layers back as they were; doing it twice is harmless. Where the model was moved,
        converted or set to training meanwhile, so are they.

        Raises:
            RuntimeError: another module has taken an 8-bit layer's place since; nothing is changed.
        """
        for name, (_, now) in self._replaced.items():
            found = self.model.get_submodule(name)
            if found is not now:
                raise RuntimeError(
                    f"'{name}' is a {type(found).__name__} that is not the layer quantize() put "
                    "there: take it off first"
                )
        if self._replaced:
            _reset_config(self.model, self._config)
        moved: list[Any] = [
            now for was, now in zip(self._place, _place(self._norm), strict=True) if now != was
        ]
        for name, (before, now) in self._replaced.items():
            for device_or_dtype in moved:
                before.to(device_or_dtype)
            _put(self.model, name, before.train(now.training))
        self._replaced = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        if not self.active:
            return "removed: the model is as it was"
        before, now = self.nbytes()
        kept = f"; as they were: {', '.join(self.kept)}" if self.kept else ""
        return (
            f"int8: {len(self.layers)} layers of {type(self.model).__name__}, {before} bytes of "
            f"weights now {now}{kept}"
        )


def quantize(
    model: nn.Module,
    scheme: str = "int8",
    *,
    head: bool = True,
    embedding: bool = False,
    keep: Iterable[str] = (),
    smoothing: Mapping[str, torch.Tensor] | None = None,
) -> Quantized:
    """Gives a model's linear layers 8-bit weights and 8-bit products, in place and undoably.

    Weights get one scale per output channel, and the rows that come in one scale each, found at
    every call (W8A8, dynamic). Norms, attention and the residual stay as they are, and so does the
    embedding unless it is asked for. It is an approximation: see docs/quantize.md for what it
    costs.

    The model may be patched before or after. Only the modules of the layers are exchanged, each
    for an `Int8Linear`; the returned handle keeps the old ones, so the memory falls when it is
    dropped. A model too large for that is loaded 8-bit from the start:
    ``dpad.models.hf.AutoModel.from_pretrained(name, quantization="int8")``.

    Args:
        model: what `dpad.patch` takes, in eval mode, float32, bfloat16 or float16.
        scheme: "int8".
        head: the head too; False keeps it.
        embedding: the embedding too, with one scale per id. It saves memory and no time.
        keep: names of layers, as ``model.named_modules()`` has them, that stay as they are.
        smoothing: dict from such names to float32 ``[in_features]`` factors of the layers' inputs,
            or None; both come from `dpad.calibrate`.

    Returns:
        `Quantized`, a handle with `remove`.

    Raises:
        TypeError, UnsupportedModelError: not a model that dpad knows.
        ValueError: an unknown scheme or name, training mode, a model that is 8-bit already, layers
            that are no plain Linear (LoRA: merge it first) or have hooks, an embedding that is the
            head as well, a weight that is not finite, a device without 8-bit products. Nothing is
            changed then.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme = {scheme!r}: expected {', '.join(SCHEMES)}")
    head, embedding = flag("head", head), flag("embedding", embedding)
    keep = list(entries("keep", keep, "names of layers"))
    if smoothing is not None and not isinstance(smoothing, Mapping):
        raise TypeError(f"smoothing = {shown(smoothing)}: expected a dict from names to factors")
    adapter = find_adapter(model)
    if adapter.model.training:
        raise ValueError("the model is in training mode: call model.eval() first")
    smoothing = dict(smoothing or {})
    names, kept = layers_of(adapter, head, keep, embedding)
    check(adapter, names, smoothing)
    replaced: dict[str, tuple[nn.Module, nn.Module]] = {}
    for name in names:
        before = cast("nn.Linear", adapter.model.get_submodule(name))
        try:
            replaced[name] = before, int8_of(before, smoothing.get(name))
        except ValueError as error:
            raise ValueError(f"'{name}': {error}") from error
    for name, (_, now) in replaced.items():
        _put(adapter.model, name, now)
    return Quantized(adapter.model, replaced, kept, adapter.norms()[0].module)


def int8_of(module: Any, smoothing: torch.Tensor | None = None) -> Int8Module:
    """The 8-bit module that takes the place of an `nn.Linear` or an `nn.Embedding`."""
    if isinstance(module, nn.Embedding):
        return Int8Embedding.of(module)
    return Int8Linear.of(module, smoothing)


def layers_of(
    adapter: Adapter, head: bool, keep: Iterable[str] = (), embedding: bool = False
) -> tuple[list[str], list[str]]:
    """(names to quantise, names of the decoder's other linear layers) in the order of the tree.

    Raises ValueError where `keep` names something else, and UnsupportedModelError for an embedding
    that is the head as well.
    """
    if embedding and adapter.head.tied:
        raise UnsupportedModelError(
            "embedding = True: this model's embedding is its head as well and stays as it is"
        )
    routers = [layer.mlp.router for layer in adapter.layers if hasattr(layer.mlp, "router")]
    others = [part.module for part in (adapter.embed, *adapter.norms(), *routers)]
    wanted = {id(module) for module in adapter.called()} - {id(module) for module in others}
    modules = dict(adapter.model.named_modules())
    found = [name for name, module in modules.items() if id(module) in wanted]
    heads = {name for name in found if modules[name] is adapter.head.module}
    unknown = [name for name in keep if name not in found]
    if unknown:
        raise ValueError(f"keep names {unknown[0]!r}, which is no linear layer of the decoder")
    keep = set(keep)
    if not head:
        keep |= heads
    if embedding:
        found = [n for n, m in modules.items() if id(m) in {*wanted, id(adapter.embed.module)}]
    return [n for n in found if n not in keep], [n for n in found if n in keep]


def check_device(device: torch.device) -> None:
    """Raises ValueError for a device without 8-bit products."""
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"the model is on {device}: 8-bit products run on cpu and cuda")
    if device.type == "cuda":
        try:  # what this GPU and this torch have
            probe = torch.ones(32, 32, dtype=torch.int8, device=device)
            torch._int_mm(probe, probe.T)
        except RuntimeError as error:
            line = str(error).partition("\n")[0]
            raise ValueError(f"torch has no 8-bit product for {device}: {line}") from error


def check(
    adapter: Adapter, names: list[str], smoothing: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Raises ValueError, or UnsupportedModelError, for what cannot be quantised."""
    device = adapter.device
    check_device(device)
    smoothing = smoothing or {}
    odd = [name for name in smoothing if name not in names]
    if odd:
        raise ValueError(f"smoothing names {odd[0]!r}, which is no layer that is quantised")
    if any(isinstance(module, Int8Module) for module in adapter.model.modules()):
        raise ValueError("the model is quantised already: remove() its handle first")
    elsewhere = _shared(adapter.model)
    for name in names:
        module: Any = adapter.model.get_submodule(name)
        what = f"'{name}' is a {type(module).__module__}.{type(module).__name__}"
        if module is adapter.embed.module:
            _check_embedding(module, what)
        elif not linear_layers.is_plain(module):
            raise UnsupportedModelError(
                f"{what}: only a plain torch.nn.Linear without hooks can be quantised (merge LoRA "
                "first, or name the layer in `keep`)"
            )
        if id(module.weight) in elsewhere:
            raise UnsupportedModelError(f"the weight of '{name}' is used elsewhere in the model")
        if module.weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise UnsupportedModelError(f"{what} of {module.weight.dtype}")
        factors = smoothing.get(name)
        if factors is not None:
            _check_factors(name, factors, module)
        if device.type == "cuda" and module is not adapter.embed.module:
            _check_cuda(name, module)


def _check_embedding(module: Any, what: str) -> None:
    plain = type(module) is nn.Embedding and linear_layers.only_own_forward(module)
    if not plain or module.max_norm is not None:
        raise UnsupportedModelError(
            f"{what}: only a plain torch.nn.Embedding without hooks and max_norm can be quantised"
        )


def _check_factors(name: str, factors: torch.Tensor, module: nn.Linear) -> None:
    if not isinstance(factors, torch.Tensor) or factors.is_meta:
        raise TypeError(f"smoothing of '{name}' = {shown(factors)}: expected a tensor with data")
    if factors.dtype != torch.float32 or factors.shape != (module.in_features,):
        raise ValueError(
            f"smoothing of '{name}' is {factors.dtype} {list(factors.shape)}: expected float32 "
            f"[{module.in_features}]"
        )
    if not (factors.isfinite().all() and (factors > 0).all()):
        raise ValueError(f"smoothing of '{name}' holds a factor that is not positive and finite")


def _check_cuda(name: str, module: nn.Linear) -> None:
    if module.in_features % _CUDA_MULTIPLE or module.out_features % _CUDA_MULTIPLE:
        raise ValueError(
            f"'{name}' is {module.in_features} x {module.out_features}: on CUDA 8-bit products "
            f"take multiples of {_CUDA_MULTIPLE}"
        )


def _shared(model: nn.Module) -> set[int]:
    """Ids of parameters that stand in more than one module."""
    seen: set[int] = set()
    shared: set[int] = set()
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared


def _place(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    weight = next(module.parameters())
    return weight.device, weight.dtype


def _nbytes(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.nbytes for tensor in tensors)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    owner: nn.Module = model.get_submodule(parent)
    owner._modules[last] = module


def _set_config(model: Any) -> Any:
    """Marks the configuration, so that a saved model is known as 8-bit; returns what was there."""
    before = getattr(model.config, "quantization_config", None)
    model.config.quantization_config = {"quant_method": METHOD}
    return before


def _reset_config(model: Any, before: Any) -> None:
    if before is None:
        del model.config.quantization_config
    else:
        model.config.quantization_config = before
