"""Attention against the kinds of scaled_dot_product_attention, flash-attn and FlashInfer."""

import importlib.util
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.cases.case import Case, drawn, short, size_of
from dpad import ops


def attention(device, batch, queries, heads, kv_heads, keys, dim=128, dtype=torch.bfloat16):
    """A pass's attention: `queries` rows of each sequence over its `keys` slots."""
    spare = 128  # slots behind the keys
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "gap": spare}
    sizes |= {"counts": (queries,) * batch, "keys": (keys,) * batch, "mask": False, "limit": False}
    args = drawn("block_attention", device, dtype, **sizes)
    args["kv_start"] = args["kv_start"].sort().values
    q, room = args["q"], keys + spare  # slots of a sequence
    rows = q.view(batch, queries, heads, dim)
    caches = [
        args[name][:, spare:].unflatten(1, (batch, room)).transpose(0, 1)
        for name in ("k_cache", "v_cache")
    ]
    slices = [cache[:, :, :keys] for cache in caches]
    exact = [t.contiguous() for t in slices]
    mask = (torch.arange(room, device=device) < keys).expand(batch, 1, queries, -1)

    def stock(backend, k_and_v, q_rows=rows, **options):
        with sdpa_kernel(backend):
            grouped = {"enable_gqa": heads != kv_heads, **options}
            out = F.scaled_dot_product_attention(q_rows.transpose(1, 2), *k_and_v, **grouped)
        return out.transpose(1, 2).reshape(q.shape)

    efficient = SDPBackend.EFFICIENT_ATTENTION
    kinds = {
        "SDPA flash, exact length": (SDPBackend.FLASH_ATTENTION, exact),
        "SDPA flash, slices of the cache": (SDPBackend.FLASH_ATTENTION, slices),
        "SDPA cuDNN, exact length": (SDPBackend.CUDNN_ATTENTION, exact),
        "SDPA efficient, exact length": (efficient, exact),
        "SDPA math, exact length": (SDPBackend.MATH, exact),
    }
    peers = {name: partial(stock, *kind) for name, kind in kinds.items()}
    masked = [efficient, SDPBackend.FLASH_ATTENTION]  # the second one on a CPU
    peers["SDPA, dense mask"] = partial(stock, masked, caches, attn_mask=mask)
    exactly = lambda: stock(SDPBackend.MATH, [t.double() for t in exact], rows.double())  # noqa: E731
    packages, missing = packages_of(rows, exact)
    return Case(
        f"block_attention {batch} x {queries} rows, {heads}/{kv_heads} heads of {dim}, {keys} keys "
        f"{short(dtype)}",
        {"dpad": partial(ops.block_attention, **args), **peers, **packages},
        exactly,
        "SDPA flash, exact length" if dtype == torch.float32 else 2**-6,
        2 * size_of(q) + size_of(*exact),
        4 * q.numel() * keys,
        missing,
    )


def packages_of(rows, exact):
    """flash-attn and FlashInfer as functions, where they are installed, and why they are not."""

    def flash_attn():
        from flash_attn import flash_attn_func

        return flash_attn_func(rows, *(t.transpose(1, 2) for t in exact)).flatten(0, 1)

    def flashinfer():
        from flashinfer import single_prefill_with_kv_cache

        k, v = (t[0] for t in exact)
        how = {"kv_layout": "HND", "causal": False, "backend": "fa2"}
        return single_prefill_with_kv_cache(rows[0], k, v, **how)

    found, missing = {}, {}
    for function in (flash_attn, flashinfer):
        name = function.__name__
        if importlib.util.find_spec(name) is None:
            missing[name] = "not installed"
        elif function is flashinfer and len(rows) > 1:
            missing[name] = "asked for one sequence only"
        else:
            found[name] = function
    return found, missing
