"""iLLaDA-8B-Base and -Instruct: where the parts live.

Llama's tree with attention over everything, 8 heads of keys and values, and the embedding's weight
as head; row i predicts position i. The mask's id stands in no file of the released models.
"""

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter
from dpad.models.parts import need

FAMILY = "illada"
CLASS_NAMES = ("ILLaDAForCausalLM",)

_VOCAB, _MASK = 155136, 5


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live iLLaDA; UnsupportedModelError naming what does not fit."""
    config = need(model, "config")
    layers = llama_tree.layers(model)
    mask = getattr(config, "mask_token_id", None)
    if mask is None and config.vocab_size >= _VOCAB:
        mask = _MASK
    return llama_tree.adapt(model, FAMILY, layers, mask_id=mask, output_class="CausalLMOutput")
