"""Fast-dLLM v2 without remote code: the released configuration and weight names on plain torch.

Covers Fast_dLLM_v2_1.5B and 7B (arXiv 2509.26328) and any smaller model of that shape. Logits are
not shifted: within a block, row i predicts position i + 1.
"""

from typing import Any, ClassVar

from dpad.models.hf.decoder import DecoderLM
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["Fast_dLLM_QwenConfig", "Fast_dLLM_QwenForCausalLM"]


class Fast_dLLM_QwenConfig(DecoderConfig):
    """Fast-dLLM v2's configuration, block length `bd_size`; the sizes are those of the 7B."""

    model_type = "Fast_dLLM_Qwen"
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "bd_size": 32,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "pad_token_id": 151645,
    }

    qkv_bias: ClassVar[bool] = True
    o_bias: ClassVar[bool] = False

    @property
    def block_length(self) -> int:
        return self.bd_size


class Fast_dLLM_QwenForCausalLM(DecoderLM):
    """Fast-dLLM v2 with its head; same weights as the released class of this name."""

    config_class = Fast_dLLM_QwenConfig
