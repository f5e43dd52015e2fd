"""Open-dCoder-0.5B: where the parts live (Open-dLLM's own Qwen2 class).

Qwen2's tree; row i - 1 predicts position i. The class is found by its sampler's, for its own name
and model type are those of the autoregressive Qwen2. Its forward attends to everything only with
``is_causal=False``, which its sampler passes; the mask's id stands in no configuration.
"""

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter

FAMILY = "open-dcoder"
CLASS_NAMES = ("MDMGenerationMixin",)


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live Open-dCoder; UnsupportedModelError naming what does not fit."""
    return llama_tree.adapt(
        model, FAMILY, llama_tree.layers(model), shift=1, forward_takes={"is_causal": False}
    )
