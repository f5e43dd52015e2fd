"""LLaDA2.0 and 2.1, mini and flash: where the parts live (arXiv 2512.15745).

Heads of q, k and v in one product, RMS norms of q and k, RoPE on the first half of each head;
experts in groups, scored by a sigmoid, beside a shared one. Decoded in blocks of 32 counted from
position 0; row i predicts position i. The stock forward is causal unless it is given a 4-D mask.
"""

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter
from dpad.models.llama_tree import EPS
from dpad.models.mlp import DenseMLP, RoutedMLP, Routing, dense, routed
from dpad.models.parts import Attention, Layer, need, norm, part, require

FAMILY = "llada2"
CLASS_NAMES = ("LLaDA2MoeModelLM",)

_BLOCK, _VOCAB, _MASK = 32, 157184, 156895  # in arguments of the released decoder


def _mlp(block: nn.Module, how: Routing) -> DenseMLP | RoutedMLP:
    if getattr(block.mlp, "experts", None) is None:
        return dense(block, "mlp")
    found = getattr(block.mlp, "shared_experts", None)
    shared = None if found is None else dense(block, "mlp.shared_experts")
    return routed(block, "mlp", how, shared=shared, bias=part(block, "mlp.gate.expert_bias"))


def _layer(block: nn.Module, how: Routing) -> Layer:
    return Layer(
        attention_norm=norm(block, "input_layernorm", EPS),
        attention=Attention(
            qkv=part(block, "attention.query_key_value"),
            q_norm=norm(block, "attention.query_layernorm", EPS),
            k_norm=norm(block, "attention.key_layernorm", EPS),
            o=part(block, "attention.dense"),
        ),
        mlp_norm=norm(block, "post_attention_layernorm", EPS),
        mlp=_mlp(block, how),
    )


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live LLaDA2; UnsupportedModelError naming what does not fit."""
    config = need(model, "config")
    score = getattr(config, "score_function", "sigmoid")
    require(score == "sigmoid", "score_function", score)
    how = Routing(
        config.num_experts_per_tok,
        "sigmoid",
        normalise=config.num_experts_per_tok > 1,
        groups=config.n_group,
        top_groups=config.topk_group,
        scaling=config.routed_scaling_factor,
        wide=True,
    )
    head_dim = getattr(config, "head_dim", None)
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    mask = getattr(config, "mask_token_id", None)
    if mask is None and config.vocab_size >= _VOCAB:
        mask = _MASK
    return llama_tree.adapt(
        model,
        FAMILY,
        llama_tree.layers(model, lambda block: _layer(block, how)),
        embedding="word_embeddings",
        widened=True,
        rotary_dim=int(head_dim * getattr(config, "partial_rotary_factor", 1.0)),
        mask_id=mask,
        attention="block-causal",
        block_length=_BLOCK,
        output_class="MoeCausalLMOutputWithPast",
    )
