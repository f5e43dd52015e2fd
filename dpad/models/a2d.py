"""dllm's A2D models (Tiny-A2D: Qwen3-0.6B-diffusion-mdlm and -bd3lm): where the parts live.

Llama's, Qwen2's or Qwen3's tree with attention over everything; row i predicts position i. Those
that were trained by blocks are of the same classes: `block_size` in their configuration, which has
to be set by hand, makes the attention block-causal.
"""

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter
from dpad.models.parts import need

FAMILY = "a2d"
CLASS_NAMES = ("A2DQwen3LMHeadModel", "A2DQwen2LMHeadModel", "A2DLlamaLMHeadModel")

# The mask token is added behind those of the tokenizer, whose number is a model type's.
_VOCAB, _MASKS = 151936, {"a2d-qwen3": 151669, "a2d-qwen2": 151665}


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live A2D model; UnsupportedModelError naming what does not fit."""
    config = need(model, "config")
    norms = hasattr(need(model, "model.layers")[0].self_attn, "q_norm")
    layers = llama_tree.layers(model, lambda b: llama_tree.layer(b, norms), in_tuple=False)
    mask, block = getattr(config, "mask_token_id", None), getattr(config, "block_size", None)
    if mask is None and config.vocab_size >= _VOCAB:
        mask = _MASKS.get(config.model_type)
    kind = {}
    if block is not None:
        kind = {"attention": "block-causal", "block_length": block}
        if not type(model).__module__.startswith("dpad.models."):
            kind["forward_takes"] = {"block_size": block}  # which no call has: it sees everything
    return llama_tree.adapt(model, FAMILY, layers, mask_id=mask, **kind)
