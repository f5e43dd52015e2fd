"""Configuration of LLaDA models: the released field names, defaults and limits."""

from typing import Any, ClassVar

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

# The configuration of LLaDA-8B-Instruct, in full, so that a saved config means the same to code
# with other defaults.
PUBLISHED = {
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "mlp_ratio": 4,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
    "block_type": "llama",
    "block_group_size": 1,
    "activation_type": "silu",
    "weight_tying": False,
    "flash_attention": False,
    "rope": True,
    "alibi": False,
    "alibi_bias_max": 8.0,
    "rope_theta": 500000.0,
    "rope_full_precision": True,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "rms_norm_eps": 1e-5,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
    "multi_query_attention": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "precision": "amp_bf16",
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
}

# What the released checkpoints never use and this class does not implement: field -> values taken.
_SUPPORTED = {
    "block_type": ("llama",),
    "block_group_size": (1,),
    "activation_type": ("silu",),
    "rope": (True,),
    "alibi": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "attention_layer_norm": (False, None),
    "bias_for_layer_norm": (False, None),
    "input_emb_norm": (False,),
    "attention_dropout": (0,),
    "residual_dropout": (0,),
    "embedding_dropout": (0,),
    "clip_qkv": (None,),
    "init_fn": ("mitchell", "normal"),
}
# The others -> what they may be; those that may be left out stand for the value of another field.
_KINDS = {
    "d_model": whole(1, MOST_WIDTH),
    "n_heads": whole(1, MOST_WIDTH),
    "n_layers": whole(1, MOST_LAYERS),
    "vocab_size": whole(1, MOST_IDS),
    "embedding_size": whole(1, MOST_IDS),
    "max_sequence_length": whole(1, MOST_CONTEXT),
    "rope_theta": real(0, above=True),
    "rms_norm_eps": real(0, above=True),
    "init_std": real(0),
    "mlp_ratio": whole(1, MOST_WIDTH),
    "mlp_hidden_size": optional(whole(1, MOST_WIDTH)),
    "n_kv_heads": optional(whole(1, MOST_WIDTH)),
    **dict.fromkeys(("mask_token_id", "pad_token_id"), optional(token_id)),
    "eos_token_id": optional(token_ids),
}


class LLaDAConfig(NativeConfig):
    """Configuration of a LLaDA model; the defaults are those of LLaDA-8B-Instruct.

    Accepts every field of the released config.json (OLMo's names) and Transformers' own. Values
    that the class does not implement raise a ValueError naming field and value. `flash_attention`,
    `init_device` and `precision` are kept but have no effect: attention always goes through
    `scaled_dot_product_attention`, device and dtype are chosen when the model is loaded.
    """

    model_type = "llada"
    attribute_map: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    def __init__(self, **kwargs: Any) -> None:
        for alias, name in self.attribute_map.items():
            if alias in kwargs:
                kwargs.setdefault(name, kwargs.pop(alias))
        fields = {name: kwargs.pop(name, default) for name, default in PUBLISHED.items()}
        if fields["embedding_size"] is None:
            fields["embedding_size"] = fields["vocab_size"]
        for name, value in fields.items():
            setattr(self, name, value)
        # A tied head is a functional use of the embedding, not a second parameter to tie.
        kwargs["tie_word_embeddings"] = False
        token_ids = {name: fields[name] for name in ("eos_token_id", "pad_token_id")}
        super().__init__(**token_ids, **kwargs)
        check_supported(self)

    @property
    def effective_n_kv_heads(self) -> int:
        """Key/value heads, from `n_kv_heads` or else `multi_query_attention`."""
        if self.n_kv_heads is not None:
            return self.n_kv_heads
        return 1 if self.multi_query_attention else self.n_heads

    @property
    def effective_mlp_hidden_size(self) -> int:
        """Width of the MLP's hidden layer: `mlp_hidden_size`, or `mlp_ratio * d_model`."""
        if self.mlp_hidden_size is not None:
            return self.mlp_hidden_size
        return self.mlp_ratio * self.d_model


def check_supported(config: LLaDAConfig) -> None:
    """Raise ValueError for a configuration that `LLaDAModelLM` would compute wrongly."""
    for name, allowed in _SUPPORTED.items():
        value = getattr(config, name, allowed[0])
        if value not in allowed:
            wanted = " or ".join(repr(choice) for choice in allowed)
            raise ValueError(f"LLaDAConfig: {name}={value!r} is not supported, only {wanted}")
    check_fields("LLaDAConfig", config, _KINDS)
    if config.d_model % (2 * config.n_heads):
        raise ValueError(
            f"LLaDAConfig: d_model={config.d_model}, n_heads={config.n_heads} give heads of no "
            f"even width, which the rotary embedding needs"
        )
    n_kv_heads = config.effective_n_kv_heads
    if n_kv_heads < 1 or config.n_heads % n_kv_heads:
        raise ValueError(
            f"LLaDAConfig: n_kv_heads={n_kv_heads} must divide n_heads={config.n_heads}"
        )
    if config.embedding_size < config.vocab_size:
        raise ValueError(
            f"LLaDAConfig: embedding_size={config.embedding_size} is smaller than "
            f"vocab_size={config.vocab_size}"
        )
