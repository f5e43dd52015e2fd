"""Dream-v0-7B, Dream-Coder and DiffuCoder: where the parts live (arXiv 2508.15487).

Row i - 1 predicts position i (the shift of the autoregressive model they were initialised from);
queries share keys in groups; q, k and v have biases; RoPE is applied in the model's dtype.
"""

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter

FAMILY = "dream"
CLASS_NAMES = ("DreamModel",)


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live Dream; UnsupportedModelError naming what does not fit."""
    return llama_tree.adapt(
        model,
        FAMILY,
        llama_tree.layers(model),
        cure="model.reset_rope_parameters() repairs it",
        shift=1,
        output_class="MaskedLMOutput",
        sampler="diffusion_generate",
    )
