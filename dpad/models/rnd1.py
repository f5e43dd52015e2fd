"""RND1-Base-0910: where the parts live (radicalnumerics, 30B with 3B active).

Qwen3-MoE's tree with attention over everything; row i - 1 predicts position i. The experts are
those of the "hf" backend; the others free their modules.
"""

from torch import nn

from dpad.models import llama_tree
from dpad.models.adapter import Adapter
from dpad.models.mlp import Routing, routed
from dpad.models.parts import need, require

FAMILY = "rnd1"
CLASS_NAMES = ("RND1LM",)


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live RND1; UnsupportedModelError naming what does not fit."""
    config = need(model, "config")
    backend = getattr(config, "moe_backend", "hf")
    require(backend == "hf", "moe_backend", backend)
    # Weights of the experts stay in float32 until their product is rounded.
    how = Routing(
        config.num_experts_per_tok,
        normalise=bool(config.norm_topk_prob),
        full_precision=False,
        round_weights=False,
    )
    layers = llama_tree.layers(model, lambda b: llama_tree.layer(b, True, routed(b, "mlp", how)))
    return llama_tree.adapt(model, FAMILY, layers, shift=1, output_class="MaskedLMOutput")
