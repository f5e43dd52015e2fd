"""Fast-dLLM v2 1.5B and 7B: where the parts live (arXiv 2509.26328).

Qwen2.5's tree with biases on q, k and v, decoded in blocks of 32 counted from position 0; within a
block row i - 1 predicts position i.
"""

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter
from dpad.models.parts import need

FAMILY = "fast-dllm-v2"
CLASS_NAMES = ("Fast_dLLM_QwenForCausalLM",)

# The mask's id is an argument of the released decoder and stands in no configuration.
_BLOCK, _VOCAB, _MASK = 32, 151936, 151665


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live Fast-dLLM v2; UnsupportedModelError naming what does not fit."""
    config = need(model, "config")
    layers = llama_tree.layers(model, in_tuple=False)
    mask = getattr(config, "mask_token_id", None)
    if mask is None and config.vocab_size >= _VOCAB:
        mask = _MASK
    return llama_tree.adapt(
        model,
        FAMILY,
        layers,
        mask_id=mask,
        shift=1,
        attention="block-causal",
        block_length=getattr(config, "bd_size", _BLOCK),
        honours_mask=type(model).__module__.startswith("dpad.models."),
    )
