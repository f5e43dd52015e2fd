"""The module tree that most families keep from Llama, Qwen2 and Qwen3, and its configuration.

``model.embed_tokens``, ``model.layers[i]`` with ``self_attn.{q,k,v,o}_proj`` and two norms,
``model.norm`` and ``lm_head``; a family says what its layers hold besides.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dpad.models.adapter import Adapter
from dpad.models.mlp import DenseMLP, RoutedMLP, dense
from dpad.models.parts import Attention, Head, Layer, need, norm, part, require

EPS = "variance_epsilon"


def layer(
    block: nn.Module, head_norms: bool = False, mlp: DenseMLP | RoutedMLP | None = None
) -> Layer:
    """The `Layer` of a block; `head_norms`: q and k are normed over the head before RoPE."""
    norms = ("q_norm", "k_norm") if head_norms else ()
    o, q, k, v = (part(block, f"self_attn.{n}_proj") for n in ("o", "q", "k", "v"))
    return Layer(
        attention_norm=norm(block, "input_layernorm", EPS),
        attention=Attention(
            o,
            q,
            k,
            v,
            **{n: norm(block, f"self_attn.{n}", EPS) for n in norms},
        ),
        mlp_norm=norm(block, "post_attention_layernorm", EPS),
        mlp=dense(block, "mlp") if mlp is None else mlp,
    )


def adapt(
    model: nn.Module,
    family: str,
    layers: list[Layer],
    embedding: str = "embed_tokens",
    cure: str | None = None,
    widened: bool = False,
    **more: Any,
) -> Adapter:
    """The `Adapter` of a model of this tree.

    `layers` are its layers, `embedding` the name in ``model.model``, `cure` what to do about rotary
    buffers that do not match the configuration, `widened` whether logits become float32; `more` are
    fields of the adapter.
    """
    config, base = need(model, "config"), need(model, "model")
    check(config)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    theta, rotary_dim = rope_theta(config), more.pop("rotary_dim", head_dim)
    tied = getattr(model, "lm_head", None) is None and bool(config.tie_word_embeddings)
    owner, head = (base, embedding) if tied else (model, "lm_head")
    fields = {
        "mask_id": getattr(config, "mask_token_id", None),
        "end_ids": ids(config, "eos_token_id"),
        "shift": 0,
        "notes": rope_notes(base, theta, rotary_dim, cure or "see docs/loading.md"),
    }
    return Adapter(
        family=family,
        model=model,
        embed=part(base, embedding),
        layers=layers,
        final_norm=norm(base, "norm", EPS),
        head=part(owner, head, Head, tied=tied, widened=widened),
        num_heads=heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        rope_theta=theta,
        rope_full_precision=False,
        max_positions=config.max_position_embeddings,
        pad_id=getattr(config, "pad_token_id", None),
        **{**fields, **more},
    )


def layers(
    model: nn.Module, make: Callable[[nn.Module], Layer] = layer, in_tuple: bool = True
) -> list[Layer]:
    """The `Layer` that `make` makes of every block, which knows its place in the tree; `in_tuple`:
    whether the released blocks return their hidden states in a tuple.
    """
    found = need(model, "model.layers")
    released = not type(need(model, "model")).__module__.startswith("dpad.models.")
    return [
        replace(make(block), block=part(found, str(number)), in_tuple=released and in_tuple)
        for number, block in enumerate(found)
    ]


def check(config: Any) -> None:
    """UnsupportedModelError for a configuration whose attention or activation is another."""
    act = getattr(config, "hidden_act", "silu")
    require(act == "silu", "hidden_act", act)
    require(not getattr(config, "use_sliding_window", False), "use_sliding_window", True)
    scaling = getattr(config, "rope_scaling", None)
    kind = scaling.get("rope_type", "default") if isinstance(scaling, dict) else None
    require(not scaling or kind == "default", "rope_scaling", scaling)


def rope_theta(config: Any) -> float:
    """The base of RoPE; Transformers 5.x keeps it among `rope_parameters`."""
    theta: Any = getattr(config, "rope_theta", None)
    if theta is None:
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
    require(theta is not None, "rope_theta", theta)
    return float(theta)


def ids(config: Any, name: str) -> tuple[int, ...]:
    """The ids of a field that holds one, several or none."""
    found = getattr(config, name, None)
    return (found,) if isinstance(found, int) else tuple(found or ())


def rope_notes(base: nn.Module, theta: float, rotary_dim: int, cure: str) -> list[str]:
    """What is to be said of the loaded rotary buffers; dpad computes its own tables.

    Transformers 5.x leaves non-persistent buffers of remote code uninitialised, and `model.to`
    rounds them with the weights.
    """
    index = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device="cpu")
    wanted = 1.0 / (theta ** (index / rotary_dim))
    found = getattr(getattr(base, "rotary_emb", None), "inv_freq", None)
    if found is None:
        return []
    if found.device.type == "meta":
        return ["the rotary buffers are on the meta device: only dpad's forward runs"]
    found = found.detach().float().cpu()
    if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-3):
        return []
    cure = f"dpad is right, the stock forward is not; {cure}"
    if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=8e-3):
        return [f"the rotary buffers were rounded to half precision (model.to): {cure}"]
    return [
        "the loaded rotary buffers do not match the configuration (transformers 5.x leaves them "
        f"uninitialised): {cure}"
    ]
