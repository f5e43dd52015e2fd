"""RND1 without remote code: the released configuration and weight names on plain torch.

Covers RND1-Base-0910 and any smaller model of that shape. Logits are not shifted: row i predicts
position i + 1.
"""

from typing import Any, ClassVar

from transformers import modeling_outputs

from dpad.models.hf.decoder import DecoderLM
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["RND1LM", "RND1Config"]


class RND1Config(DecoderConfig):
    """RND1's configuration; defaults are RND1-Base-0910's, here and in the released class."""

    model_type = "rnd1"
    head_norms: ClassVar[bool] = True
    round_expert_weights: ClassVar[bool] = False
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "attention_bias": False,
        "mask_token_id": 151669,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "pad_token_id": 151643,
    }

    def routed(self, layer: int) -> bool:
        return True


class RND1LM(DecoderLM):
    """RND1 with its language-model head; same weights as the released class of this name."""

    config_class = RND1Config
    output_class = modeling_outputs.MaskedLMOutput
