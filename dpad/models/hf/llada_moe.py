"""LLaDA-MoE without remote code: the released configuration and weight names on plain torch.

Covers LLaDA-MoE-7B-A1B-Base and -Instruct (arXiv 2509.24389) and any smaller model of that shape.
"""

from typing import Any, ClassVar

from transformers import modeling_outputs

from dpad.models.hf.decoder import DecoderLM
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["LLaDAMoEConfig", "LLaDAMoEModelLM"]


class LLaDAMoEConfig(DecoderConfig):
    """LLaDA-MoE's configuration; the sizes are those of LLaDA-MoE-7B-A1B, and so is
    what the released class has no value for.

    `moe_layer_freq` has a 0 for every dense layer. `norm_topk_prob` has no effect, as released.
    """

    model_type = "llada"  # the released one, which dense LLaDA has too
    SERVED: ClassVar[dict[str, Any]] = {
        "clip_qkv": (None,),
        "partial_rotary_factor": (1, None),
        "moe_router_enable_expert_bias": (False, None),
        "moe_router_score_function": ("softmax", None),
        "routed_scaling_factor": (1, None),
        "shared_expert_intermediate_size": (None, 0, -1),
    }
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vocab_size": 157184,
        "hidden_size": 2048,
        "dense_intermediate_size": 8192,
        "expert_intermediate_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_layer_freq": None,
        "qk_layernorm": True,
        "norm_topk_prob": False,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
        "attention_bias": False,
        "mask_token_id": 156895,
        "eos_token_id": 156892,
        "pad_token_id": 156892,
    }

    normalise_experts: ClassVar[bool] = False

    @property
    def head_norms(self) -> bool:
        return bool(self.qk_layernorm)

    @property
    def mlp_width(self) -> int:
        return self.dense_intermediate_size

    @property
    def expert_width(self) -> int:
        return self.expert_intermediate_size

    def routed(self, layer: int) -> bool:
        return not self.moe_layer_freq or bool(self.moe_layer_freq[layer])


class LLaDAMoEModelLM(DecoderLM):
    """LLaDA-MoE with its head; same weights as the released class of this name."""

    config_class = LLaDAMoEConfig
    output_class = modeling_outputs.MoeCausalLMOutputWithPast
