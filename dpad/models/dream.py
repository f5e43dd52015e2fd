"""Dream-v0-7B, Dream-Coder and DiffuCoder: where the parts live (arXiv 2508.15487).

Row i - 1 predicts position i (the shift of the autoregressive model they were initialised from);
queries share keys in groups; q, k and v have biases; RoPE is applied in the model's dtype.
"""

import torch

from dpad.models.adapter import Adapter
from dpad.models.mlp import dense
from dpad.models.parts import Attention, Head, Layer, need, norm, part, require

FAMILY = "dream"
CLASS_NAMES = ("DreamModel",)
EPS = "variance_epsilon"


def _layer(layers, number, in_tuple):
    block = layers[number]
    return Layer(
        attention_norm=norm(block, "input_layernorm", EPS),
        attention=Attention(
            q=part(block, "self_attn.q_proj"),
            k=part(block, "self_attn.k_proj"),
            v=part(block, "self_attn.v_proj"),
            o=part(block, "self_attn.o_proj"),
        ),
        mlp_norm=norm(block, "post_attention_layernorm", EPS),
        mlp=dense(block, "mlp"),
        block=part(layers, str(number)),
        in_tuple=in_tuple,
    )


def _rope_notes(base, theta, head_dim):
    """What is to be said of the loaded rotary buffers; dpad computes its own tables.

    Transformers 5.x leaves non-persistent buffers of remote code uninitialised, and `model.to`
    rounds them with the weights.
    """
    index = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu")
    wanted = 1.0 / (theta ** (index / head_dim))
    found = getattr(getattr(base, "rotary_emb", None), "inv_freq", None)
    if found is None:
        return []
    if found.device.type == "meta":
        return ["the rotary buffers are on the meta device: only dpad's forward runs"]
    found = found.detach().float().cpu()
    if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-3):
        return []
    cure = "dpad is right, the stock forward is not; model.reset_rope_parameters() repairs it"
    if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=8e-3):
        return [f"the rotary buffers were rounded to half precision (model.to): {cure}"]
    return [
        "the loaded rotary buffers do not match the configuration (transformers 5.x leaves them "
        f"uninitialised): {cure}"
    ]


def adapt(model):
    """The adapter of a live Dream; UnsupportedModelError naming what does not fit."""
    config = need(model, "config")
    require(getattr(config, "hidden_act", "silu") == "silu", "hidden_act", config.hidden_act)
    require(not getattr(config, "use_sliding_window", False), "use_sliding_window", True)
    scaling = getattr(config, "rope_scaling", None)
    kind = scaling.get("rope_type", "default") if isinstance(scaling, dict) else None
    require(scaling is None or kind == "default", "rope_scaling", scaling)
    base = need(model, "model")
    layers, native = need(base, "layers"), type(base).__module__.startswith("dpad.models.")
    head_dim = config.hidden_size // config.num_attention_heads
    theta = float(config.rope_theta)
    eos = getattr(config, "eos_token_id", None)
    return Adapter(
        family=FAMILY,
        model=model,
        embed=part(base, "embed_tokens"),
        layers=[_layer(layers, number, not native) for number in range(len(layers))],
        final_norm=norm(base, "norm", EPS),
        head=part(model, "lm_head", Head),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        rope_theta=theta,
        rope_full_precision=False,
        max_positions=config.max_position_embeddings,
        shift=1,
        mask_id=getattr(config, "mask_token_id", None),
        end_ids=(eos,) if isinstance(eos, int) else tuple(eos or ()),
        pad_id=getattr(config, "pad_token_id", None),
        output_class="MaskedLMOutput",
        sampler="diffusion_generate",
        notes=_rope_notes(base, theta, head_dim),
    )
