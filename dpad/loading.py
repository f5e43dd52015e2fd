"""A checkpoint by its name, as a command line or an evaluation gives it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from dpad.models.hf.interface import NativeModel


def load(
    name: str, dtype: str = "auto", device: str = "auto", tokenizer: str | None = None
) -> tuple["NativeModel", "PreTrainedTokenizerBase"]:
    """(model, tokenizer) of a repository, a folder or "demo", the shipped tiny model.

    The model is dpad's own class, in eval mode. `dtype` and `device` are names; "auto" is the
    checkpoint's dtype, and a GPU if there is one. `tokenizer` is another name to load it from.

    Raises:
        ValueError: an unknown dtype or device.
        OSError, UnsupportedModelError: nothing there, or nothing that dpad knows.
    """
    import torch

    from dpad import demo
    from dpad.models.hf import AutoModel, AutoTokenizer
    from dpad.models.parts import UnsupportedModelError

    dtypes = {n: getattr(torch, n) for n in ("float32", "bfloat16", "float16")}
    if dtype != "auto" and dtype not in dtypes:
        raise ValueError(f"dtype = {dtype!r}: expected auto, {', '.join(dtypes)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = usable_device(device)
    if name == "demo":
        found: PreTrainedTokenizerBase | None
        model, found = demo.load(dtypes.get(dtype))
    else:
        try:
            model = AutoModel.from_pretrained(name, dtype=dtypes.get(dtype, "auto"))
        except ValueError as error:
            raise UnsupportedModelError(str(error)) from error
        found = None if tokenizer else AutoTokenizer.from_pretrained(name)
    if tokenizer:
        found = AutoTokenizer.from_pretrained(tokenizer)
    return model.to(place).eval(), found


def usable_device(name: str) -> "torch.device":
    """The torch device of a name, once something could be put there; ValueError if it cannot."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device = {name!r}: expected cpu, cuda, cuda:0 ... or auto") from error
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        why = (str(error).splitlines() or [""])[0][:80]
        raise ValueError(f"device = {name!r} is not here ({why}); pass cpu or auto") from error
    if device.type == "meta":
        raise ValueError(f"device = {name!r}: expected one that holds values")
    return device
