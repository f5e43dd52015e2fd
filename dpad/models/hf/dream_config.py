"""Configuration of Dream with the released field names."""

from typing import Any

from dpad.models.hf.interface import NativeConfig, check_fields
from dpad.values import (
    MOST_CONTEXT,
    MOST_IDS,
    MOST_LAYERS,
    MOST_WIDTH,
    optional,
    real,
    token_id,
    token_ids,
    whole,
)

_KINDS = {
    "vocab_size": whole(1, MOST_IDS),
    "hidden_size": whole(1, MOST_WIDTH),
    "intermediate_size": whole(1, MOST_WIDTH),
    "num_hidden_layers": whole(1, MOST_LAYERS),
    "num_attention_heads": whole(1, MOST_WIDTH),
    "num_key_value_heads": whole(1, MOST_WIDTH),
    "max_position_embeddings": whole(1, MOST_CONTEXT),
    "initializer_range": real(0),
    "rms_norm_eps": real(0, above=True),
    "rope_theta": real(0, above=True),
    **dict.fromkeys(("mask_token_id", "pad_token_id", "bos_token_id"), optional(token_id)),
    "eos_token_id": optional(token_ids),
}


class DreamConfig(NativeConfig):
    """Dream's configuration (arXiv 2508.15487); the sizes are those of Dream-v0-7B.

    RoPE's base and the greatest number of positions are what the released class takes where a file
    leaves them out.

    Args:
        vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
        num_key_value_heads, max_position_embeddings: sizes.
        rms_norm_eps, rope_theta: of the norms and of RoPE.
        mask_token_id: id of the mask token.

    Raises:
        ValueError: a field that the native class does not serve, with its value.
    """

    model_type = "Dream"

    def __init__(
        self,
        vocab_size: int = 152064,
        hidden_size: int = 3584,
        intermediate_size: int = 18944,
        num_hidden_layers: int = 28,
        num_attention_heads: int = 28,
        num_key_value_heads: int = 4,
        hidden_act: str = "silu",
        max_position_embeddings: int = 32768,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 10000.0,
        mask_token_id: int = 151666,
        bos_token_id: int = 151643,
        eos_token_id: int = 151643,
        pad_token_id: int = 151643,
        **kwargs: Any,
    ) -> None:
        if hidden_act != "silu":
            raise ValueError(f"hidden_act = {hidden_act!r}: expected 'silu'")
        if kwargs.get("use_sliding_window"):
            raise ValueError("use_sliding_window = True: Dream's attention is full")
        scaling = kwargs.get("rope_scaling")
        kind = scaling.get("rope_type", "default") if isinstance(scaling, dict) else scaling
        if kind not in (None, "default"):
            raise ValueError(f"rope_scaling = {scaling!r}: expected None")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.mask_token_id = mask_token_id
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            **kwargs,
        )
        check_supported(self)


def check_supported(config: DreamConfig) -> None:
    """Raises ValueError for a configuration that `DreamModel` would compute wrongly, by field."""
    check_fields("DreamConfig", config, _KINDS)
    heads, width = config.num_attention_heads, config.hidden_size
    if width % (2 * heads) or heads % config.num_key_value_heads:
        raise ValueError(
            f"DreamConfig: hidden_size = {width}, num_attention_heads = {heads}, "
            f"num_key_value_heads = {config.num_key_value_heads}: each must divide the one before, "
            "the first with an even quotient (RoPE turns pairs)"
        )
