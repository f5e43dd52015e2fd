"""What the configurations of the Llama- and Qwen-shaped native classes share."""

from typing import ClassVar

from transformers import PretrainedConfig

_SHARED = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "mask_token_id": None,
}
# Fields that change the model and that no released checkpoint changes: field -> the values taken.
_SERVED = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "attention_dropout": (0,),
}
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)


class DecoderConfig(PretrainedConfig):
    """Base of the configurations: released field names, kept as given; fields of no meaning here
    are kept too.

    A subclass names its fields and their published values in `PUBLISHED`, values it does not serve
    in `SERVED`, and says what its layers are: `qkv_bias`, `o_bias`, `head_norms` (RMS norms of q
    and k), `block_length` (None: attention over everything), `routed` (which layers are mixtures).

    Raises:
        ValueError: a field with a value that the class does not serve.
    """

    PUBLISHED: ClassVar[dict] = {}
    SERVED: ClassVar[dict] = {}
    head_norms: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        # Transformers 5 makes dataclasses of configurations without an __init__ of their own.
        if "__init__" not in cls.__dict__:
            cls.__init__ = DecoderConfig.__init__
        super().__init_subclass__(**kwargs)

    def __init__(self, **kwargs):
        rope = kwargs.pop("rope_parameters", None) or {}
        fields = {**_SHARED, **self.PUBLISHED}
        values = {name: kwargs.pop(name, default) for name, default in fields.items()}
        values["rope_theta"] = rope.get("rope_theta", values["rope_theta"])
        for name, value in values.items():
            setattr(self, name, value)
        scaling = kwargs.pop("rope_scaling", None) or rope
        if scaling and scaling.get("rope_type", scaling.get("type", "default")) != "default":
            raise ValueError(f"rope_scaling = {scaling!r}: expected None")
        special = {n: values[n] for n in _SHARED if n.endswith(("_token_id", "_embeddings"))}
        del special["mask_token_id"]
        super().__init__(**special, **kwargs)
        check_served(self)

    @property
    def head_width(self) -> int:
        """Of one head: `head_dim`, or the width shared out among the heads."""
        return getattr(self, "head_dim", None) or self.hidden_size // self.num_attention_heads

    @property
    def qkv_bias(self) -> bool:
        return bool(getattr(self, "attention_bias", False))

    @property
    def o_bias(self) -> bool:
        return bool(getattr(self, "attention_bias", False))

    @property
    def block_length(self) -> int | None:
        return None

    def routed(self, layer) -> bool:
        """Whether the MLP of the layer of this number is a mixture of experts."""
        return False


def check_served(config):
    """ValueError for what the native classes would compute wrongly, naming field and value."""
    name = type(config).__name__
    for field, taken in {**_SERVED, **config.SERVED}.items():
        value = getattr(config, field, taken[0])
        if value not in taken:
            wanted = " or ".join(map(repr, taken))
            raise ValueError(f"{name}: {field} = {value!r} is not supported, only {wanted}")
    for field in _SIZES:
        value = getattr(config, field)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {field} = {value!r} must be a positive integer")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        raise ValueError(
            f"{name}: num_key_value_heads = {kv_heads} must divide num_attention_heads = {heads}"
        )
    apart = config.hidden_size % heads and not getattr(config, "head_dim", None)
    if apart or config.head_width % 2:
        raise ValueError(
            f"{name}: hidden_size = {config.hidden_size}, num_attention_heads = {heads} and "
            f"head_dim = {getattr(config, 'head_dim', None)} give heads of no even width"
        )
    block = config.block_length
    if block is not None and (not isinstance(block, int) or block < 1):
        raise ValueError(f"{name}: a block length of {block!r} must be a positive integer")
