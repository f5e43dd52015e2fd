"""What the configurations of the Llama- and Qwen-shaped native classes share."""

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

_SHARED = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
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
_KINDS = {
    "vocab_size": whole(1, MOST_IDS),
    **dict.fromkeys(("hidden_size", "num_attention_heads"), whole(1, MOST_WIDTH)),
    "num_key_value_heads": whole(1, MOST_WIDTH),
    "num_hidden_layers": whole(1, MOST_LAYERS),
    "max_position_embeddings": whole(1, MOST_CONTEXT),
    "initializer_range": real(0),
    **dict.fromkeys(("rms_norm_eps", "rope_theta"), real(0, above=True)),
    **dict.fromkeys(("mask_token_id", "pad_token_id", "bos_token_id"), optional(token_id)),
    "eos_token_id": optional(token_ids),
}
# Of fields that some classes have.
_MORE_KINDS = {
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size"), whole(1, MOST_WIDTH)),
    "dense_intermediate_size": whole(1, MOST_WIDTH),
    "expert_intermediate_size": whole(1, MOST_WIDTH),
    "head_dim": optional(whole(1, MOST_WIDTH)),
    "num_experts": whole(1, MOST_WIDTH),
    "num_experts_per_tok": whole(1, MOST_WIDTH),
    **dict.fromkeys(("block_size", "bd_size"), whole(1, MOST_CONTEXT)),
}


class DecoderConfig(NativeConfig):
    """Base of the configurations: released field names, kept as given; fields of no meaning here
    are kept too.

    A subclass names its fields and their defaults in `PUBLISHED`. Sizes and ids of a vocabulary are
    those of a released checkpoint; what no shape of a weight tells (eps, RoPE's base, positions,
    routing) is what the released class takes where a file leaves it out. `SERVED` holds the values
    that are served. The class says what its layers are: `qkv_bias`, `o_bias`, `head_norms` (RMS
    norms of q and k), `block_length` (None: attention over everything), `routed` (which layers are
    mixtures) and `round_expert_weights` (to the dtype, before they multiply).

    Raises:
        ValueError: a field with a value that the class does not serve.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {}
    SERVED: ClassVar[dict[str, Any]] = {}
    round_expert_weights: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Transformers 5 makes dataclasses of configurations without an __init__ of their own.
        if "__init__" not in cls.__dict__:
            setattr(cls, "__init__", DecoderConfig.__init__)  # noqa: B010
        super().__init_subclass__(**kwargs)

    def __init__(self, **kwargs: Any) -> None:
        rope = kwargs.pop("rope_parameters", None)
        rope = rope if isinstance(rope, dict) else {}
        fields = {**_SHARED, **self.PUBLISHED}
        values = {name: kwargs.pop(name, default) for name, default in fields.items()}
        values["rope_theta"] = rope.get("rope_theta", values["rope_theta"])
        for name, value in values.items():
            setattr(self, name, value)
        scaling = kwargs.pop("rope_scaling", None) or rope
        kind = scaling.get("rope_type", "default") if isinstance(scaling, dict) else scaling
        if kind and kind != "default":
            raise ValueError(f"rope_scaling = {scaling!r}: expected None")
        special = {n: values[n] for n in _SHARED if n.endswith(("_token_id", "_embeddings"))}
        del special["mask_token_id"]
        super().__init__(**special, **kwargs)
        check_served(self, complete=False)

    @property
    def head_width(self) -> int:
        """Of one head: `head_dim`, or the width shared out among the heads."""
        return getattr(self, "head_dim", None) or self.hidden_size // self.num_attention_heads

    @property
    def rotary_width(self) -> int:
        """Of what RoPE turns of a head, its first columns."""
        return self.head_width

    @property
    def head_norms(self) -> bool:
        return False

    @property
    def qkv_bias(self) -> bool:
        return bool(getattr(self, "attention_bias", False))

    @property
    def o_bias(self) -> bool:
        return bool(getattr(self, "attention_bias", False))

    @property
    def mlp_width(self) -> int:
        """Of a dense MLP's inner rows."""
        return self.intermediate_size

    @property
    def expert_width(self) -> int:
        """Of an expert's inner rows."""
        return self.moe_intermediate_size

    @property
    def normalise_experts(self) -> bool:
        """Whether the weights of a row's experts are divided by their sum."""
        return bool(self.norm_topk_prob)

    @property
    def block_length(self) -> int | None:
        return None

    def routed(self, layer: int) -> bool:
        """Whether the MLP of the layer of this number is a mixture of experts."""
        return False


def check_served(config: DecoderConfig, complete: bool = True) -> None:
    """ValueError for what the native classes would compute wrongly, naming field and value.

    Not `complete`: what a checkpoint has to say may be missing yet, for Transformers makes
    configurations of nothing.
    """
    name = type(config).__name__
    for field, taken in {**_SERVED, **config.SERVED}.items():
        value = getattr(config, field, taken[0])
        if value not in taken:
            wanted = " or ".join(map(repr, taken))
            raise ValueError(f"{name}: {field} = {value!r} is not supported, only {wanted}")
    more = {field: kind for field, kind in _MORE_KINDS.items() if field in config.PUBLISHED}
    kinds = {**_KINDS, **more}
    if not complete:
        left_out = {f for f, value in config.PUBLISHED.items() if value is None}
        kinds = {f: k for f, k in kinds.items() if f not in left_out or getattr(config, f)}
    check_fields(name, config, kinds)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        raise ValueError(
            f"{name}: num_key_value_heads = {kv_heads} must divide num_attention_heads = {heads}"
        )
    apart = config.hidden_size % heads and not getattr(config, "head_dim", None)
    if apart or config.rotary_width % 2:
        raise ValueError(
            f"{name}: hidden_size = {config.hidden_size}, num_attention_heads = {heads} and "
            f"head_dim = {getattr(config, 'head_dim', None)} give heads of no even width"
        )
    if any(config.routed(layer) for layer in range(config.num_hidden_layers)):
        top, experts = config.num_experts_per_tok, config.num_experts
        if top > experts:
            raise ValueError(
                f"{name}: num_experts_per_tok = {top!r} must be from 1 to num_experts = {experts}"
            )
