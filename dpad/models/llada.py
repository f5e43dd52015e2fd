"""LLaDA-8B-Base, LLaDA-8B-Instruct and LLaDA-1.5: where the parts live (arXiv 2502.09992).

Fits the released remote code in all its revisions and `dpad.models.hf`'s native class.
"""

from typing import Any

from torch import nn

from dpad.models.adapter import Adapter
from dpad.models.mlp import DenseMLP
from dpad.models.parts import Attention, Head, Layer, Norm, need, norm, part, require

FAMILY = "llada"
CLASS_NAMES = ("LLaDAModelLM",)

# Ids of the released tokenizer, for configurations that do not name them.
_RELEASED_VOCAB, _RELEASED_MASK, _RELEASED_EOS, _RELEASED_EOT = 126464, 126336, 126081, 126348


def _check(config: Any) -> None:
    require(getattr(config, "block_type", "llama") == "llama", "block_type", config.block_type)
    require(getattr(config, "block_group_size", 1) == 1, "block_group_size > 1", True)
    require(getattr(config, "rope", True), "rope", False)
    for name in ("alibi", "attention_layer_norm", "input_emb_norm"):
        require(not getattr(config, name, False), name, True)
    require(
        getattr(config, "clip_qkv", None) is None, "clip_qkv", getattr(config, "clip_qkv", None)
    )
    norm = str(getattr(config.layer_norm_type, "value", config.layer_norm_type))
    require(norm == "rms", "layer_norm_type", norm)
    activation = str(getattr(config.activation_type, "value", config.activation_type))
    require(activation == "silu", "activation_type", activation)


def _norm(parent: nn.Module, name: str) -> Norm:
    found = norm(parent, name, "eps")
    require(getattr(found.module, "bias", None) is None, f"{name}.bias", "a bias")
    return found


def _layer(blocks: Any, number: int, in_tuple: bool) -> Layer:
    block = blocks[number]
    return Layer(
        attention_norm=_norm(block, "attn_norm"),
        attention=Attention(
            q=part(block, "q_proj"),
            k=part(block, "k_proj"),
            v=part(block, "v_proj"),
            o=part(block, "attn_out"),
        ),
        mlp_norm=_norm(block, "ff_norm"),
        mlp=DenseMLP(part(block, "ff_proj"), part(block, "up_proj"), part(block, "ff_out")),
        block=part(blocks, str(number)),
        in_tuple=in_tuple,
    )


def _head(tree: nn.Module, config: Any) -> Head:
    """Tied weights and scaled logits as the stock forward has them."""
    scale = config.d_model**-0.5 if getattr(config, "scale_logits", False) else None
    name = "wte" if config.weight_tying else "ff_out"
    return part(tree, name, Head, tied=bool(config.weight_tying), scale=scale)


def _kv_heads(config: Any) -> int:
    explicit = getattr(config, "n_kv_heads", None)
    if explicit is not None:
        return explicit
    return 1 if getattr(config, "multi_query_attention", None) else config.n_heads


def adapt(model: Any) -> Adapter:
    """The adapter of a live LLaDA; UnsupportedModelError naming what does not fit."""
    config = need(model, "model.config")
    _check(config)
    tree = need(model, "model.transformer")
    blocks = need(tree, "blocks")
    outer = model.config
    eos = getattr(outer, "eos_token_id", None)
    ends = [eos] if isinstance(eos, int) else list(eos or ())
    mask = getattr(outer, "mask_token_id", None)
    # The released tokenizer, tokens added to it or not.
    if config.vocab_size >= _RELEASED_VOCAB and mask in (None, _RELEASED_MASK):
        mask = _RELEASED_MASK if mask is None else mask
        ends = list(dict.fromkeys([*(ends or [_RELEASED_EOS]), _RELEASED_EOT]))
    head_dim = config.d_model // config.n_heads
    inner = type(need(model, "model"))
    native = inner.__module__.startswith("dpad.models.")
    return Adapter(
        family=FAMILY,
        model=model,
        embed=part(tree, "wte"),
        layers=[_layer(blocks, number, not native) for number in range(len(blocks))],
        final_norm=_norm(tree, "ln_f"),
        head=_head(tree, config),
        num_heads=config.n_heads,
        num_kv_heads=_kv_heads(config),
        head_dim=head_dim,
        rotary_dim=head_dim,
        rope_theta=float(config.rope_theta),
        rope_full_precision=bool(getattr(config, "rope_full_precision", True)),
        max_positions=config.max_sequence_length,
        shift=0,
        mask_id=mask,
        end_ids=tuple(ends),
        pad_id=getattr(outer, "pad_token_id", None),
        honours_mask=native or hasattr(inner, "get_bidirectional_attention_bias"),
    )
