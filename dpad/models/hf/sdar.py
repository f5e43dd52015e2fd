"""SDAR without remote code: the released configuration and weight names on plain torch.

Covers SDAR-1.7B, 4B, 8B and 30B-A3B (arXiv 2510.06303) and any smaller model of that shape.
"""

from typing import Any, ClassVar

from dpad.models.hf.decoder import DecoderLM
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["SDARConfig", "SDARForCausalLM", "SDARMoeConfig", "SDARMoeForCausalLM"]


class SDARConfig(DecoderConfig):
    """SDAR's configuration, block length `block_size`; the sizes are those of SDAR-8B-Chat."""

    model_type = "sdar"
    head_norms: ClassVar[bool] = True
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "block_size": 4,
        "mask_token_id": 151669,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
    }

    @property
    def block_length(self) -> int:
        return self.block_size


class SDARForCausalLM(DecoderLM):
    """SDAR with its language-model head; same weights as the released class of this name."""

    config_class = SDARConfig


class SDARMoeConfig(SDARConfig):
    """SDAR-MoE's configuration; the sizes are those of SDAR-30B-A3B-Chat.

    A layer is a mixture of experts unless `mlp_only_layers` names it or `decoder_sparse_step` steps
    over it.
    """

    model_type = "sdar_moe"
    PUBLISHED: ClassVar[dict[str, Any]] = {
        **SDARConfig.PUBLISHED,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": (),
    }

    def routed(self, layer: int) -> bool:
        dense = layer in (self.mlp_only_layers or ())
        return not dense and (layer + 1) % self.decoder_sparse_step == 0


class SDARMoeForCausalLM(DecoderLM):
    """SDAR-MoE with its language-model head; same weights as the released class of this name."""

    config_class = SDARMoeConfig
