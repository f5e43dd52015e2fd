"""SDAR-1.7B, 4B, 8B and 30B-A3B: where the parts live (arXiv 2510.06303).

Qwen3's or Qwen3-MoE's tree, decoded block by block: a position sees its own block and those before,
counted from position 0; row i predicts position i. The released weights come with blocks of 4, or
32 (b32).
"""

from typing import Any

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter
from dpad.models.mlp import DenseMLP, RoutedMLP, Routing, dense, routed
from dpad.models.parts import need

FAMILY = "sdar"
CLASS_NAMES = ("SDARForCausalLM", "SDARMoeForCausalLM")

# Of the released models, whose first configurations name neither block nor mask.
_BLOCK, _VOCAB, _MASK, _END_OF_TURN = 4, 151936, 151669, 151645


def _mlp(block: nn.Module, config: Any) -> DenseMLP | RoutedMLP:
    if getattr(block.mlp, "experts", None) is None:
        return dense(block, "mlp")
    top, normalise = config.num_experts_per_tok, bool(config.norm_topk_prob)
    return routed(block, "mlp", Routing(top, normalise=normalise, full_precision=False))


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live SDAR; UnsupportedModelError naming what does not fit."""
    config = need(model, "config")
    layers = llama_tree.layers(model, lambda b: llama_tree.layer(b, True, _mlp(b, config)))
    mask, ends = getattr(config, "mask_token_id", None), llama_tree.ids(config, "eos_token_id")
    if config.vocab_size >= _VOCAB and mask in (None, _MASK):
        mask, ends = _MASK, tuple(dict.fromkeys((*ends, _END_OF_TURN)))
    block = getattr(config, "block_size", None)
    return llama_tree.adapt(
        model,
        FAMILY,
        layers,
        mask_id=mask,
        end_ids=ends,
        attention="block-causal",
        block_length=_BLOCK if block is None else block,
    )
