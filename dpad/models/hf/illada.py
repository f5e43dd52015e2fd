"""iLLaDA without remote code: the released configuration and weight names on plain torch.

Covers iLLaDA-8B-Base and -Instruct and any smaller model of that shape.
"""

from typing import Any, ClassVar

from transformers import modeling_outputs

from dpad.models.hf.decoder import DecoderLM
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["ILLaDAConfig", "ILLaDAForCausalLM"]


class ILLaDAConfig(DecoderConfig):
    """iLLaDA's configuration; defaults are the sizes of iLLaDA-8B.

    `rope_theta` and `rms_norm_eps` are the checkpoint's to say and have no default.
    """

    model_type = "illada"
    SERVED: ClassVar[dict[str, Any]] = {
        "layer_norm_eps": (None,),
        "mlp_bias": (False, None),
        "resid_pdrop": (0, None),
    }
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vocab_size": 155136,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": None,
        "rope_theta": None,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "mask_token_id": 5,
    }


class ILLaDAForCausalLM(DecoderLM):
    """iLLaDA with its language-model head; same weights as the released class of this name."""

    config_class = ILLaDAConfig
    output_class = modeling_outputs.CausalLMOutput
