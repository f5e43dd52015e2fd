"""A checkpoint by its name, as a command line or an evaluation gives it."""


def load(name, dtype="auto", device="auto", tokenizer=None):
    """(model, tokenizer) of a repository, a folder or "demo", the shipped tiny model.

    The model is dpad's own class, in eval mode. `dtype` and `device` are names; "auto" is the
    checkpoint's dtype, and a GPU if there is one. `tokenizer` is another name to load it from.

    Raises:
        ValueError: an unknown dtype or device.
        OSError, UnsupportedModelError: nothing there, or nothing that dpad knows.
    """
    import torch

    from dpad import demo
    from dpad.models.adapter import UnsupportedModelError
    from dpad.models.hf import AutoModel, AutoTokenizer

    dtypes = {n: getattr(torch, n) for n in ("float32", "bfloat16", "float16")}
    if dtype != "auto" and dtype not in dtypes:
        raise ValueError(f"dtype = {dtype!r}: expected auto, {', '.join(dtypes)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device = {device!r}: {error}") from error
    if name == "demo":
        model, found = demo.load(dtypes.get(dtype))
    else:
        try:
            model = AutoModel.from_pretrained(name, dtype=dtypes.get(dtype, "auto"))
        except ValueError as error:
            raise UnsupportedModelError(str(error)) from error
        found = None if tokenizer else AutoTokenizer.from_pretrained(name)
    if tokenizer:
        found = AutoTokenizer.from_pretrained(tokenizer)
    return model.to(device).eval(), found
