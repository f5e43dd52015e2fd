"""A checkpoint's files, looked at before Transformers acts on what they say.

Weights come out of safetensors files that lie beside the configuration, and out of nothing else;
no field of any file chooses code, a kernel or a place elsewhere.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Name = str | os.PathLike[str]  # of a repository, or the path of a folder
CONFIG = "config.json"
# Keyword arguments that say where a checkpoint's files come from.
SOURCE = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
# Fields of a config.json by which Transformers chooses an implementation, which may be a kernel
# out of the hub. The native classes have one, so they say nothing.
_DROPPED = ("attn_implementation", "experts_implementation")
# Fields that make it read or compute something else than the folder's weights as they are.
_REFUSED = ("configuration_files", "fusion_config", "transformers_weights")
# Quantisation by packages that are installed, without kernels out of the hub; and our own.
_QUANTIZERS = ("bitsandbytes", "torchao", "dpad_int8")
# Arguments of `from_pretrained` that would do the same -> values that do not.
_ARGUMENTS = {
    "allow_all_kernels": (None, False),
    "attn_implementation": (None, "sdpa"),
    "from_flax": (None, False),
    "from_tf": (None, False),
    "gguf_file": (None,),
    "kernel_config": (None,),
    "use_kernels": (None, False),
    "use_safetensors": (None, True),
    "weights_only": (None, True),
}
_DTYPES = ("float32", "bfloat16", "float16")
_FLOATS = ("F64", "F32", "F16", "BF16")


def check_arguments(kwargs: dict[str, Any]) -> None:
    """Refuses arguments of `from_pretrained` that would run code or read pickles.

    Raises:
        TypeError: `trust_remote_code`.
        ValueError: another one, by name and value.
    """
    if "trust_remote_code" in kwargs:
        raise TypeError(
            "trust_remote_code is not an argument here: dpad.models.hf never runs code from a "
            "checkpoint. Use transformers.AutoModel for the stock class."
        )
    for name, good in _ARGUMENTS.items():
        if name in kwargs and not any(kwargs[name] is g or kwargs[name] == g for g in good):
            wanted = " or ".join(map(repr, good))
            raise ValueError(f"{name} = {kwargs[name]!r}: the native classes take {wanted}")


def source_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that say where the files come from."""
    return {name: kwargs[name] for name in SOURCE if name in kwargs}


def find(name: Name, file: str, source: dict[str, Any]) -> str | None:
    """Path of a checkpoint's file on this machine, or None if it has none of that name."""
    from transformers.utils import cached_file

    missing = {"_raise_exceptions_for_missing_entries": False}
    missing["_raise_exceptions_for_gated_repo"] = False
    return cached_file(str(name), file, **source, **missing)


def read_json(path: Name) -> dict[str, Any]:
    """The object in a JSON file; ValueError with its path for anything else."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON that can be read ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, expected an object")
    return found


def read_config(name: Name, source: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config.json that a native configuration may be made of.

    Raises:
        OSError: there is none.
        ValueError: it is no object, or has a field that would make Transformers read or run
            something else; with its path.
    """
    path = name if os.path.isfile(name) else find(name, CONFIG, source)
    if path is None:
        raise OSError(f"no {CONFIG} in {str(name)!r}")
    found = read_json(path)
    for field in _REFUSED:
        if found.get(field) is not None:
            raise ValueError(f"{path}: {field} = {found[field]!r} is refused: it names other files")
    quantized = found.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
    if quantized is not None and method not in _QUANTIZERS:
        raise ValueError(
            f"{path}: quantization_config = {quantized!r} is refused: expected a quant_method of "
            f"{', '.join(_QUANTIZERS)}"
        )
    return {n: v for n, v in found.items() if not n.startswith("_") and n not in _DROPPED}


def check_files(name: Name, source: dict[str, Any], variant: str | None = None) -> list[str]:
    """Paths of the checkpoint's safetensors files.

    Raises:
        OSError: there are none.
        ValueError: weights of another kind lie beside or instead of them; an index that points
            outside its folder or is none.
    """
    adapter = find(name, "adapter_config.json", source)
    if adapter is not None:
        raise ValueError(
            f"{adapter}: an adapter lies in the folder, which may name another model: load the "
            "model, then peft.PeftModel.from_pretrained(model, folder)"
        )
    folder = Path(name) / source.get("subfolder", "")
    parts = sorted(folder.glob("shard-*-model-*-of-*.safetensors")) if folder.is_dir() else ()
    if parts:
        raise ValueError(f"{parts[0]}: part of a distributed checkpoint, which is not read")
    suffix = f".{variant}" if variant else ""
    whole = find(name, f"model{suffix}.safetensors", source)
    if whole is not None:
        return [whole]
    index = find(name, f"model.safetensors.index{suffix}.json", source)
    if index is None:
        raise OSError(
            f"no model{suffix}.safetensors, nor an index of several, in {str(name)!r}: other "
            "formats (pytorch_model.bin is a pickle) are not read"
        )
    return [_shard(name, index, file, source) for file in _shards(index)]


def _shards(index: str) -> list[str]:
    """The files that an index names, each once."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
        raise ValueError(f"{index}: weight_map = {places!r:.80}: expected an object of file names")
    for file in places.values():
        names = PurePosixPath(file), PureWindowsPath(file)
        inside = not any(n.is_absolute() or n.drive or ".." in n.parts for n in names)
        if not inside or not file.endswith(".safetensors"):
            raise ValueError(
                f"{index}: weight_map names {file!r}: expected a safetensors file of its folder"
            )
    return sorted(set(places.values()))


def _shard(name: Name, index: str, file: str, source: dict[str, Any]) -> str:
    path = find(name, file, source)
    if path is None:
        raise OSError(f"{index}: weight_map names {file!r}, which is not there")
    return path


def check_headers(paths: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> None:
    """Looks at what the files hold before anything is loaded.

    Args:
        paths: of safetensors files.
        shapes: name -> shape of the model's weights; others are not looked at.

    Raises:
        ValueError: a file that cannot be read, or a weight of another shape or without floating
            point, by file and name.
    """
    from safetensors import SafetensorError, safe_open

    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  it is no dict
                    part = file.get_slice(name)
                    _check_weight(path, name, part.get_dtype(), part.get_shape(), shapes)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path}: not a safetensors file that can be read ({error})"
            ) from error


def _check_weight(
    path: str, name: str, dtype: str, shape: Sequence[int], shapes: Mapping[str, Sequence[int]]
) -> None:
    if name not in shapes:
        return
    if list(shape) != list(shapes[name]):
        raise ValueError(
            f"{path}: {name} has shape {list(shape)}, the configuration asks for "
            f"{list(shapes[name])}"
        )
    if dtype not in _FLOATS:
        raise ValueError(f"{path}: {name} is {dtype}, expected one of {', '.join(_FLOATS)}")


def shapes_of(
    model_class: Callable[..., nn.Module], config: "PretrainedConfig"
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weights that a model of this configuration has."""
    with torch.device("meta"):
        return {n: tuple(p.shape) for n, p in model_class(config).state_dict().items()}


def dtype_of(dtype: torch.dtype | str) -> torch.dtype | None:
    """A torch dtype, or None for the checkpoint's; by name too."""
    if dtype == "auto":
        return None
    names = {str(getattr(torch, n)): getattr(torch, n) for n in _DTYPES}
    found = names.get(str(dtype), names.get(f"torch.{dtype}"))
    if found is None:
        raise ValueError(f"dtype = {dtype!r}: expected auto, {', '.join(_DTYPES)}")
    return found


def hollow(
    model_class: type["PreTrainedModel"],
    config: "PretrainedConfig",
    dtype: torch.dtype | None = None,
) -> "PreTrainedModel":
    """A model of its class whose parameters have shapes and take no memory; their dtype, if it is
    not that of the class.
    """
    with torch.device("meta"):
        model = model_class(config)
    made = {}  # a shared parameter stays one
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in made:
                    kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
                    empty = torch.zeros((), dtype=kind).expand(tensor.shape)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(empty, False) if is_parameter else empty
                tensors[name] = None if tensor is None else made[id(tensor)]
    return model.eval()


def check_missing(name: Name | None, info: Mapping[str, Any]) -> None:
    """ValueError with the names of weights that were in no file."""
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"{str(name)!r} lacks weights, which would be random numbers: "
            f"{', '.join(missing[:5])}{more} (output_loading_info=True takes it, and lists them)"
        )


_OF_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")


def check_tokenizer(name: Name, source: dict[str, Any]) -> None:
    """ValueError with its path for a tokenizer's file that holds no object."""
    for file in _OF_TOKENIZERS:
        path = find(name, file, source)
        if path is not None:
            read_json(path)


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Errors that say nothing of where they come from become ValueErrors that begin with `what`.

    The Rust tokenizers raise the bare class; what Transformers raises names the folder.
    """
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{what} ({type(error).__name__}: {error})") from error
