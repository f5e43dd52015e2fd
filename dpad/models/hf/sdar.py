"""SDAR without remote code: the released configuration and weight names on plain torch.

Covers SDAR-1.7B, 4B and 8B (arXiv 2510.06303) and any smaller model of that shape.
"""

from typing import ClassVar

from dpad.models.hf.decoder import DecoderLM
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["SDARConfig", "SDARForCausalLM"]


class SDARConfig(DecoderConfig):
    """SDAR's configuration, block length `block_size`; defaults are those of SDAR-8B-Chat."""

    model_type = "sdar"
    head_norms: ClassVar[bool] = True
    PUBLISHED: ClassVar[dict] = {
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
    def block_length(self):
        return self.block_size


class SDARForCausalLM(DecoderLM):
    """SDAR with its language-model head; same weights as the released class of this name."""

    config_class = SDARConfig
