"""What one decoding takes of memory: counted from shapes, and measured on this machine."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from dpad.models.adapter import Adapter

CANVAS, BLOCK = 1024, 32
NEAR = 0.2  # of what is counted: as far as a measured peak may be from it
# A random LLaDA of 20 M parameters: weights, K/V and one pass at `CANVAS` are of one order.
FIELDS = {
    "d_model": 512,
    "n_heads": 8,
    "n_kv_heads": 8,
    "n_layers": 5,
    "mlp_hidden_size": 1408,
    "vocab_size": 2048,
    "embedding_size": 2048,
    "mask_token_id": 2046,
    "eos_token_id": 2045,
    "pad_token_id": 2045,
    "max_sequence_length": CANVAS,
}


def counted(adapter: "Adapter", canvas: int, block_length: int = BLOCK) -> dict[str, Any]:
    """Bytes that one sequence of `canvas` positions needs, as `dpad.Engine.capacity` counts them.

    Returns a dict: "weights", "kv", "pass" (the largest, with the canvas itself), their sum
    "total", and "free" on the device now (None: unknown). Nothing is allocated.
    """
    from dpad.engine.capacity import capacity

    needed = capacity(adapter, 1, canvas, canvas, min(block_length, canvas))
    tensors = (*adapter.model.parameters(), *adapter.model.buffers())
    found = {
        "weights": sum(t.nbytes for t in {id(t): t for t in tensors}.values()),
        "kv": needed.kv_bytes,
        "pass": needed.pass_bytes + needed.canvas_bytes,
    }
    return {**found, "total": sum(found.values()), "free": needed.free_bytes}


def measured(model: torch.nn.Module, canvas: int, **options: Any) -> int | None:
    """Bytes of a model's weights and of all that decoding one `canvas` takes besides, at its peak.

    `options` of `dpad.generate`, with `max_new_tokens`. It is the resident memory of this process:
    None but for Linux and models on the CPU. A short decoding comes first, so that what libraries
    take once is there.
    """
    import dpad
    from dpad.models.adapter import find_adapter

    adapter = find_adapter(model)
    prompt = torch.zeros(1, canvas - options["max_new_tokens"], dtype=torch.int64)
    options = {"suffix": "all", "early_stop": False, "seed": 0, **options}
    if adapter.device.type != "cpu":
        return None
    dpad.generate(model, prompt[:, :BLOCK], **options)
    try:
        _forget()
        before = _resident("VmRSS")
        dpad.generate(model, prompt, **options)
        return counted(adapter, canvas)["weights"] + _resident("VmHWM") - before
    except OSError:  # no such files: another system, or one that hides them
        return None


def check() -> dict[str, Any]:
    """Whether count and measurement agree here, in a second or two.

    Returns a dict: `counted` for a small random model and a canvas of 1,024, and besides "canvas",
    "measured" (bytes, or None where that is not possible), "ratio" (measured by counted, or None)
    and "agrees" (None where there is no ratio).
    """
    from dpad.models.adapter import find_adapter
    from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

    with torch.random.fork_rng(devices=[]):
        model = LLaDAModelLM(LLaDAConfig(**FIELDS)).float().eval()
    found = {"canvas": CANVAS, **counted(find_adapter(model), CANVAS)}
    options = {"max_new_tokens": BLOCK, "block_length": BLOCK, "steps": 1, "cache": "none"}
    peak = measured(model, CANVAS, **options)
    ratio = None if peak is None else peak / found["total"]
    agrees = None if ratio is None else abs(ratio - 1) <= NEAR
    return {**found, "measured": peak, "ratio": ratio, "agrees": agrees}


def of_checkpoint(
    name: str | Path, canvas: int = CANVAS, dtype: str | torch.dtype = "auto"
) -> dict[str, Any]:
    """`counted` for a checkpoint that is not loaded: a repository, a folder or "demo".

    Besides "name", "canvas", "dtype" and "fits" (all of it into what is free on the CPU now; None:
    unknown).

    Raises:
        ValueError: an unknown dtype, a canvas that is longer than the model's.
        OSError, UnsupportedModelError: no such checkpoint, or none that can be counted.
    """
    from dpad import demo
    from dpad.models.adapter import find_adapter
    from dpad.models.hf import checkpoint, hollow
    from dpad.models.parts import UnsupportedModelError

    wanted = checkpoint.dtype_of(dtype) or "auto"
    try:
        model = hollow(demo.model_folder() if name == "demo" else name, wanted)
    except ValueError as error:
        raise UnsupportedModelError(str(error)) from error
    adapter = find_adapter(model)
    if not 1 <= canvas <= adapter.max_positions:
        raise ValueError(f"canvas = {canvas}: the model takes 1 to {adapter.max_positions}")
    found = counted(adapter, canvas)
    fits = None if found["free"] is None else found["total"] <= found["free"]
    dtype = str(adapter.dtype).removeprefix("torch.")
    return {"name": str(name), "canvas": canvas, "dtype": dtype, **found, "fits": fits}


def _resident(name: str) -> int:
    """Bytes of this process; VmHWM is the most since the last `_forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) << 10


def _forget() -> None:
    """Begins a new VmHWM, after what was freed was given back."""
    from dpad.decode.device import give_back

    gc.collect()
    give_back(torch.device("cpu"))
    Path("/proc/self/clear_refs").write_text("5")
