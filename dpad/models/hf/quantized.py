"""Loading 8-bit: a checkpoint that is made 8-bit tensor by tensor, or that was saved 8-bit."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from dpad.models.adapter import find_adapter
from dpad.models.hf import checkpoint
from dpad.models.int8_embedding import Int8Embedding
from dpad.models.int8_linear import Int8Linear, quantize_weight
from dpad.models.quantized import METHOD, SCHEMES, check, layers_of

_OPTIONS = ("head", "embedding", "keep", "smoothing")  # of `dpad.quantize`
# Arguments of `from_pretrained` that say nothing of an 8-bit model, or were used already.
_PASSED = ("dtype", "torch_dtype", "attn_implementation", "use_safetensors", *checkpoint.SOURCE)


def is_quantized(config: PretrainedConfig) -> bool:
    """Whether a configuration is of a model that `dpad.quantize` made 8-bit."""
    found = getattr(config, "quantization_config", None)
    return isinstance(found, dict) and found.get("quant_method") == METHOD


def options_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Takes the arguments of `dpad.quantize` out of those of `from_pretrained`."""
    return {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}


def from_pretrained(
    model_class: type[PreTrainedModel],
    name: checkpoint.Name,
    config: PretrainedConfig,
    paths: Sequence[str],
    options: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> PreTrainedModel:
    """`load` for a native class's `from_pretrained`; TypeError for an argument it cannot take."""
    odd = sorted(set(kwargs) - set(_PASSED))
    if args or odd:
        raise TypeError(f"{odd[0] if odd else 'a second argument'} is not taken with quantization")
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    return load(model_class, name, config, paths, dtype=dtype or "auto", **options)


def load(
    model_class: type[PreTrainedModel],
    name: checkpoint.Name,
    config: PretrainedConfig,
    paths: Sequence[str],
    *,
    scheme: str | None,
    dtype: torch.dtype | str = "auto",
    head: bool = True,
    embedding: bool = False,
    keep: Sequence[str] = (),
    smoothing: Mapping[str, Tensor] | None = None,
) -> PreTrainedModel:
    """A model in eval mode on the CPU, its linear layers 8-bit.

    No more than one tensor of the checkpoint is held besides the model: the peak is the 8-bit
    model, and what the system keeps of the file that is being read. Weights are rounded from the
    checkpoint's own values.

    Args:
        model_class, config: of the model; name: repository or folder, paths: its safetensors files.
        scheme: "int8", or None where the checkpoint is 8-bit.
        dtype: of everything else, "auto" is the checkpoint's.
        head, embedding, keep, smoothing: as in `dpad.quantize`; not for checkpoints that are 8-bit.

    Raises:
        ValueError: an unknown scheme or dtype, a checkpoint that lacks a tensor or has another one
            or one of another shape, a weight that is not finite.
    """
    saved = is_quantized(config)
    if saved and (scheme is not None or not head or embedding or keep or smoothing):
        raise ValueError(f"{str(name)!r} is quantised already: load it without quantization")
    if not saved and scheme not in SCHEMES:
        raise ValueError(f"quantization = {scheme!r}: expected {', '.join(SCHEMES)}")
    held = checkpoint.dtype_of(dtype)
    checkpoint.check_headers(paths, {} if saved else checkpoint.shapes_of(model_class, config))
    files, config = _files(paths), deepcopy(config)
    model = checkpoint.hollow(model_class, config)
    if saved:
        names = _saved_layers(files)
    else:
        adapter = find_adapter(model)
        names, _ = layers_of(adapter, head, keep, embedding)
        check(adapter, names, smoothing)
    factors = dict(smoothing or {})
    for n in names:
        _exchange(model, n, model.get_submodule(n), smoothing=(n + ".smoothing") in files)
    rounded = {} if saved else {n + ".weight": factors.get(n) for n in names}
    _fill(model, files, held, rounded)
    for module in model.modules():
        if isinstance(module, Int8Embedding):
            module.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    config.quantization_config = {"quant_method": METHOD}
    config._name_or_path = str(name)
    return model.eval()


def _files(paths: Sequence[str]) -> dict[str, str]:
    """Tensor name -> the safetensors file that holds it."""
    from safetensors import safe_open

    found: dict[str, str] = {}
    for path in paths:
        with safe_open(path, "pt") as opened:
            found |= dict.fromkeys(opened.keys(), path)
    return found


def _saved_layers(files: Iterable[str]) -> list[str]:
    """Names of the 8-bit layers: those with a scale."""
    suffix = ".scale"
    return [name.removesuffix(suffix) for name in files if name.endswith(suffix)]


def _exchange(model: nn.Module, name: str, module: Any, smoothing: bool) -> None:
    parent, _, last = name.rpartition(".")
    layer: Int8Embedding | Int8Linear
    if isinstance(module, nn.Embedding):
        layer = Int8Embedding(module.num_embeddings, module.embedding_dim, device="meta")
    else:
        layer = Int8Linear(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            smoothing=smoothing,
            device="meta",
        )
    model.get_submodule(parent)._modules[last] = layer.eval()


def _fill(
    model: nn.Module,
    files: Mapping[str, str],
    dtype: torch.dtype | None,
    rounded: Mapping[str, Tensor | None],
) -> None:
    """Puts the checkpoint's tensors into the model, one file after the other; `rounded` maps the
    names of weights that become 8-bit on the way to their layers' smoothing.
    """
    from safetensors import safe_open

    wanted = set(model.state_dict())
    scales = {name.removesuffix("weight") + "scale" for name in rounded}
    shared = _shared(model)
    missing = sorted(n for n in wanted - scales if not files.keys() & {n, *shared.get(n, ())})
    other = sorted(set(files) - wanted)
    if missing or other:
        what = f"lacks {missing[0]!r}" if missing else f"holds {other[0]!r}, which the model lacks"
        raise ValueError(f"the checkpoint {what}")
    for path in sorted(set(files.values())):
        with safe_open(path, "pt") as opened:
            for name in (n for n, file in files.items() if file == path):
                _put(model, name, opened.get_tensor(name), dtype, rounded)
    for name in sorted(wanted - scales - set(files)):  # another name's parameter
        given = next(other for other in shared[name] if other in files)
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._parameters[last] = model.get_parameter(given)


def _shared(model: nn.Module) -> dict[str, list[str]]:
    """Name of a parameter that has several -> all of them."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {name: group for group in groups.values() if len(group) > 1 for name in group}


def _put(
    model: nn.Module,
    name: str,
    tensor: Tensor,
    dtype: torch.dtype | None,
    rounded: Mapping[str, Tensor | None],
) -> None:
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    is_parameter = last in module._parameters
    found: Tensor | None
    found = module._parameters[last] if is_parameter else module._buffers[last]
    if found is None or found.shape != tensor.shape:
        here = None if found is None else list(found.shape)
        raise ValueError(
            f"{name!r} is {list(tensor.shape)} in the checkpoint and {here} in the model"
        )
    if name in rounded:
        layer = cast("Int8Linear", module)
        if rounded[name] is not None:
            layer.smoothing = rounded[name]
        try:
            layer.weight, layer.scale = quantize_weight(tensor, rounded[name])
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
    elif not is_parameter:
        module._buffers[last] = tensor.clone()
    else:
        # A copy in any case: what was read may be the file itself, mapped.
        made = tensor.to(dtype or tensor.dtype, copy=True)
        module._parameters[last] = nn.Parameter(made, requires_grad=made.is_floating_point())
