"""dllm's A2D models without remote code: Llama, Qwen2 and Qwen3 with attention over everything.

Covers Qwen3-0.6B-diffusion-mdlm, and -bd3lm with `block_size` in its configuration, and any model
that dllm converts.
"""

from typing import Any, ClassVar

from dpad.models.hf.decoder import DecoderLM
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = [
    "A2DLlamaConfig",
    "A2DLlamaLMHeadModel",
    "A2DQwen2Config",
    "A2DQwen2LMHeadModel",
    "A2DQwen3Config",
    "A2DQwen3LMHeadModel",
]

_FIELDS = {"attention_bias": False, "head_dim": None, "max_position_embeddings": 32768}


class A2DConfig(DecoderConfig):
    """What the three share; `block_size`, if it is set, is the block length of the attention."""

    SERVED: ClassVar[dict[str, Any]] = {"mlp_bias": (False, None)}

    @property
    def block_length(self) -> int | None:
        return getattr(self, "block_size", None)


class A2DLlamaConfig(A2DConfig):
    """Llama's fields; the sizes are those of Llama-3.2-1B, whose RoPE is another one."""

    model_type = "a2d-llama"
    PUBLISHED: ClassVar[dict[str, Any]] = {
        **_FIELDS,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }


class A2DQwen2Config(A2DConfig):
    """Qwen2's fields; the sizes are those of Qwen2.5-0.5B."""

    model_type = "a2d-qwen2"
    qkv_bias: ClassVar[bool] = True
    o_bias: ClassVar[bool] = False
    PUBLISHED: ClassVar[dict[str, Any]] = {
        **_FIELDS,
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }


class A2DQwen3Config(A2DConfig):
    """Qwen3's fields; the sizes are those of Qwen3-0.6B."""

    model_type = "a2d-qwen3"
    head_norms: ClassVar[bool] = True
    PUBLISHED: ClassVar[dict[str, Any]] = {
        **_FIELDS,
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    }


class A2DLlamaLMHeadModel(DecoderLM):
    """A2D's Llama with its head; same weights as the released class of this name."""

    config_class = A2DLlamaConfig


class A2DQwen2LMHeadModel(DecoderLM):
    """A2D's Qwen2 with its head; same weights as the released class of this name."""

    config_class = A2DQwen2Config


class A2DQwen3LMHeadModel(DecoderLM):
    """A2D's Qwen3 with its head; same weights as the released class of this name."""

    config_class = A2DQwen3Config
