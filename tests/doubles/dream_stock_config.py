"""The configuration of Dream's double, as the released ``configuration_dream.py`` has it."""

from transformers import PretrainedConfig


class DreamConfig(PretrainedConfig):
    """The released fields; the defaults are not those of the released checkpoints."""

    model_type = "Dream"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(
        self,
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=22016,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        hidden_act="silu",
        max_position_embeddings=32768,
        initializer_range=0.02,
        rms_norm_eps=1e-6,
        use_cache=False,
        tie_word_embeddings=False,
        rope_theta=10000.0,
        rope_scaling=None,
        use_sliding_window=False,
        sliding_window=4096,
        max_window_layers=28,
        attention_dropout=0.0,
        mask_token_id=151666,
        pad_token_id=151643,
        **kwargs,
    ):
        given = {n: v for n, v in locals().items() if n not in ("self", "kwargs", "__class__")}
        tied = given.pop("tie_word_embeddings")
        later = {n: given.pop(n) for n in ("mask_token_id", "pad_token_id")}
        given["sliding_window"] = sliding_window if use_sliding_window else None
        given["num_key_value_heads"] = num_key_value_heads or num_attention_heads
        if rope_scaling is not None and "type" in rope_scaling:
            given["rope_scaling"] = {**rope_scaling, "rope_type": rope_scaling["type"]}
        for name, value in given.items():
            setattr(self, name, value)
        super().__init__(tie_word_embeddings=tied, **kwargs)
        for name, value in later.items():
            setattr(self, name, value)
