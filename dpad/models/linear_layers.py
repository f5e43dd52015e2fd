"""Where a decoder's linear layers run: their modules are called, or `dpad.ops.linear` stands in.

`stands_in` is the one place that decides it, for every call anew.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpad import ops
from dpad.models.int8_linear import Int8Linear

# What torch is slower at: measured against torch 2.13 on one core. With one row both wait for the
# weight; a smaller weight stays in the caches and the call itself costs as much. In bfloat16 torch
# is the faster one but for some rows, where pairs have an instruction: at 8 to 16 it takes 1.05 to
# 1.4 times as long, at 32 1.1 to 1.4, at 64 1.1. From 17 to 24 the operator reads the weight twice.
ROWS, PAIRED_ROWS = (range(2, 513),), (range(8, 17), range(25, 97))
LEAST_WEIGHT = 1 << 19  # elements
ISAS = ("avx2", "avx512")
_FORWARD, _CALL = nn.Linear.forward, nn.Linear.__call__


@cache
def rows_of(isa: str) -> dict[torch.dtype, tuple[range, ...]]:
    """dtype -> ranges of rows for which the operator is the faster one on an instruction set.

    float16 is there where torch has no kernels for it and widens everything.
    """
    if isa not in ISAS:
        return {}
    found: dict[torch.dtype, tuple[range, ...]] = {torch.float32: ROWS}
    mkldnn = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and mkldnn._is_mkldnn_fp16_supported()):
        found[torch.float16] = ROWS
    if "avx512bf16" in ops.cpu_extensions():
        found[torch.bfloat16] = PAIRED_ROWS
    return found


def call(module: Any, x: Tensor) -> Tensor:
    """``module(x)``; of a plain Linear the product alone, for the call around it costs as much as
    that of a small layer.

    Everything is asked anew, so that what is set, hooked or replaced holds from the next call on.
    """
    # A graph is to trace the module, and where gradients are recorded it has hooks on them.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not is_plain(module):
        return module(x)
    return product(x, parameter(module, "weight"), parameter(module, "bias"))


def parameter(module: nn.Module, name: str) -> Any:
    """``getattr(module, name)`` of what is nearly always a parameter, in a tenth of the time."""
    known = module._parameters
    return known[name] if name in known else getattr(module, name)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight^T + bias``, by the operator where it can stand in: tied heads, fused projections.

    Args:
        x: ``[rows, in_features]``; weight: ``[out_features, in_features]``; bias:
            ``[out_features]`` or None.

    Returns:
        ``[rows, out_features]``.
    """
    linear = ops.linear if stands_in(x, weight, bias) else F.linear
    return linear(x, weight, bias)


def grouped_product(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``x weight[e]^T`` for the rows of each expert e, as `dpad.ops.grouped_linear`.

    On the CPU by torch's own grouped product for a dtype that the operator has to widen.

    Args:
        x: ``[rows, in_features]``, sorted by expert; weight: ``[experts, out_features,
            in_features]``; offsets: int32 ``[experts]``, the end of each expert's rows.

    Returns:
        ``[rows, out_features]``.
    """
    choosing = x.is_cpu and not torch.compiler.is_compiling()  # torch traces it in bfloat16 only
    if choosing and x.dtype not in rows_of(ops.cpu_isa()):
        return ops.reference.grouped_linear(x, weight, offsets)
    return ops.grouped_linear(x, weight, offsets)


def gated_product(x: Tensor, row: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """``silu(x gate[e]^T) * (x up[e]^T)`` of rows ``x[row]`` that are sorted by expert.

    By one operator on the CPU, where `grouped_product` is ours.

    Args:
        x: ``[rows, in_features]``; row: int64 ``[places]``; weight: ``[experts, 2 ffn,
            in_features]``, gates first; offsets: int32 ``[experts]``, the end of each expert's
            places.

    Returns:
        ``[places, ffn]``.
    """
    if x.is_cpu and (torch.compiler.is_compiling() or x.dtype in rows_of(ops.cpu_isa())):
        gate, up = weight.chunk(2, 1)
        return ops.grouped_swiglu(x, row, gate, up, offsets)
    gate, up = grouped_product(x[row], weight, offsets).chunk(2, -1)
    return ops.swiglu(gate, up)


def reads_offsets(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why `grouped_product` with such weights reads its offsets on the host, or None."""
    if device.type != "cuda":
        return None if device.type == "cpu" else f"grouped products on {device.type} may wait"
    if dtype != torch.bfloat16:
        return f"grouped products of {dtype} read their offsets (bfloat16 does not)"
    if torch.cuda.get_device_capability(device) < (9, 0):
        return "grouped products before Hopper read their offsets"
    return None


def is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a call of the module is torch's own Linear and nothing else.

    Not so for subclasses (LoRA, quantised and parametrised layers are such), under hooks, and where
    somebody has put another function in the place of torch's own.
    """
    return (
        type(module) is nn.Linear
        and only_own_forward(module)
        and not hooked_everywhere()
        and nn.Linear.forward is _FORWARD
        and nn.Linear.__call__ is _CALL
    )


def hooked_everywhere() -> bool:
    """Whether hooks stand that run with every call of any module."""
    every = nn.modules.module
    return bool(every._global_forward_hooks or every._global_forward_pre_hooks)


def stands_in(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `dpad.ops.linear` does the work of torch's linear in this call, and sooner."""
    if weight.numel() < LEAST_WEIGHT:  # the cheapest question, for layers that wait for it most
        return False
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    rows = rows_of(ops.cpu_isa()).get(weight.dtype, ())
    return (
        x.dim() == 2
        and any(x.shape[0] in some for some in rows)
        and _fits(weight, bias)
        and is_ordinary(x, weight.dtype)
        and not torch.is_autocast_enabled("cpu")
    )


def suits(weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether these are weights that `stands_in` says yes to, in some calls."""
    return weight.dtype in rows_of(ops.cpu_isa()) and _fits(weight, bias)


def _fits(weight: Tensor, bias: Tensor | None) -> bool:
    return (
        weight.numel() >= LEAST_WEIGHT
        and is_ordinary(weight, weight.dtype)
        and weight.stride(-1) == 1
        and (weight.dtype != torch.bfloat16 or weight.shape[-1] % 2 == weight.stride(0) % 2 == 0)
        and (bias is None or is_ordinary(bias, weight.dtype))
    )


def is_ordinary(tensor: Tensor, dtype: torch.dtype, device: str = "cpu") -> bool:
    """Whether it is a plain strided tensor of this dtype and type of device."""
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.dtype == dtype
        and tensor.device.type == device
        and tensor.layout == torch.strided
    )


def where(modules: Sequence[nn.Module]) -> str:
    """What becomes of these modules of a model, as words for its report."""
    isa, parts = ops.cpu_isa(), []
    small = [m for m in modules if isinstance(m, Int8Linear)]
    if small:
        on_cpu = ops.has_kernel("int8_linear", small[0].weight.device.type)
        vnni = "avx512vnni" in ops.cpu_extensions()
        by = f"cpu kernel, {'avx512vnni' if vnni else isa}" if on_cpu else "torch's own products"
        parts.append(f"8-bit products ({by}) of {len(small)} modules")
    plain = [m for m in modules if is_plain(m) and suits(m.weight, m.bias)]
    if plain:
        ranges = rows_of(isa)[plain[0].weight.dtype]
        rows = " and ".join(f"{some.start} to {some.stop - 1}" for some in ranges)
        parts.append(f"cpu kernel ({isa}) for {rows} rows of {len(plain)} plain modules")
    return "; ".join(
        [*parts, "others are called"] if parts else ["the model's own modules, called"]
    )


def only_own_forward(module: nn.Module) -> bool:
    """Whether a call of the module is its class's forward and nothing else.

    accelerate wraps `forward` on the instance: that counts where the hook would move something.
    torch.compile's wrapper computes the same.
    """
    hooked = module._forward_hooks or module._forward_pre_hooks
    return "_orig_mod" in module._modules or (own_forward(module) and not hooked)


def own_forward(module: nn.Module, behind: Callable[[Any], Any] | None = None) -> bool:
    """Whether the forward of the module is its class's, whatever hooks are around it.

    `behind`: a function that gives what stands behind an entry of the instance.
    """
    entry, hook = module.__dict__.get("forward"), module.__dict__.get("_hf_hook")
    if entry is None and hook is None:  # as nearly always
        return True
    if hook is not None:
        for one in getattr(hook, "hooks", (hook,)):
            if type(one).__name__ != "AlignDevicesHook" or one.offload:
                return False
        entry = module.__dict__.get("_old_forward")
    entry = entry if behind is None else behind(entry)
    entry = getattr(entry, "_torchdynamo_orig_callable", entry)  # compiled, it computes the same
    return entry is None or getattr(entry, "__func__", None) is type(module).forward
