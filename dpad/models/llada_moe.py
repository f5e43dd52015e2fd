"""LLaDA-MoE-7B-A1B-Base and -Instruct: where the parts live (arXiv 2509.24389).

Qwen3's tree with attention over everything and OLMoE's experts; row i predicts position i. Weights
of the experts are not divided by their sum, whatever the configuration says; a dense layer or a
shared expert may stand beside them.
"""

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter
from dpad.models.mlp import DenseMLP, RoutedMLP, Routing, dense, routed
from dpad.models.parts import need, require

FAMILY = "llada-moe"
CLASS_NAMES = ("LLaDAMoEModelLM",)

_VOCAB, _MASK, _END_OF_TURN = 157184, 156895, 156892


def _mlp(block: nn.Module, how: Routing) -> DenseMLP | RoutedMLP:
    if getattr(block.mlp, "experts", None) is None:
        require(
            getattr(block, "shared_expert", None) is None, "a shared expert without others", True
        )
        return dense(block, "mlp")
    bias = getattr(block.mlp, "expert_bias", None)
    require(bias is None, "mlp.expert_bias", bias)
    shared = getattr(block, "shared_expert", None)
    shared = None if shared is None else dense(block, "shared_expert")
    return routed(block, "mlp", how, shared=shared)


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live LLaDA-MoE; UnsupportedModelError naming what does not fit."""
    config = need(model, "config")
    clip = getattr(config, "clip_qkv", None)
    require(clip is None, "clip_qkv", clip)
    partial = getattr(config, "partial_rotary_factor", None)
    require(partial in (None, 1), "partial_rotary_factor", partial)
    how = Routing(config.num_experts_per_tok, normalise=False, full_precision=False)
    norms = bool(getattr(config, "qk_layernorm", True))
    layers = llama_tree.layers(model, lambda b: llama_tree.layer(b, norms, _mlp(b, how)))
    mask, ends = getattr(config, "mask_token_id", None), llama_tree.ids(config, "eos_token_id")
    if config.vocab_size >= _VOCAB and mask in (None, _MASK):
        mask, ends = _MASK, ends or (_END_OF_TURN,)
    return llama_tree.adapt(
        model,
        FAMILY,
        layers,
        mask_id=mask,
        end_ids=ends,
        honours_mask=type(model).__module__.startswith("dpad.models."),
        output_class="MoeCausalLMOutputWithPast",
    )
