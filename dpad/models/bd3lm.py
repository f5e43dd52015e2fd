"""BD3-LM: where the parts live (arXiv 2503.09573).

A diffusion transformer without time conditioning: its adaLN vectors are constants of the weights.
q, k and v in one product, layer norms, a GELU MLP; decoded in blocks counted from position 0, row i
predicts position i. The mask is the last id of the vocabulary. The stock forward attends by blocks
with ``sample_mode=True`` only.
"""

from typing import Any

from torch import nn

from dpad.models import llama_tree
from dpad.models.adaln import Gated, LayerNorm, Modulation, Table
from dpad.models.adapter import Adapter
from dpad.models.mlp import DenseMLP
from dpad.models.parts import Attention, Head, Layer, Part, need, part, require

FAMILY = "bd3lm"
CLASS_NAMES = ("BD3LM",)

# Of the released models, whose tokenizer is GPT-2's; their configurations do not name its end.
_VOCAB, _END_OF_TEXT = 50258, 50256
_ROPE_THETA = 10000.0
# Places in what a block's `adaLN_modulation` gives: shift, scale and gate of attention, then of MLP
_ATTENTION, _MLP = (0, 1, 2), (3, 4, 5)


def _modulation(backbone: Any, path: str, count: int) -> Modulation | None:
    """The `Modulation` of the module at a dotted path; None where the model has none."""
    if not backbone.adaln:
        return None
    linear = part(backbone, f"{path}.adaLN_modulation")
    first, second = part(backbone, "sigma_map.mlp.0"), part(backbone, "sigma_map.mlp.2")
    return Modulation(linear, first, second, count)


def _norm(
    backbone: nn.Module, path: str, modulation: Modulation | None, shift: int = 0, scale: int = 1
) -> LayerNorm:
    return part(backbone, path, LayerNorm, modulation=modulation, shift=shift, scale=scale)


def _gated(backbone: nn.Module, path: str, modulation: Modulation | None, gate: int) -> Part:
    if modulation is None:
        return part(backbone, path)
    return part(backbone, path, Gated, modulation=modulation, gate=gate)


def _layer(backbone: nn.Module, number: int) -> Layer:
    block = f"blocks.{number}"
    adaln = _modulation(backbone, block, 6)
    (shift, scale, gate), (mlp_shift, mlp_scale, mlp_gate) = _ATTENTION, _MLP
    return Layer(
        attention_norm=_norm(backbone, f"{block}.norm1", adaln, shift, scale),
        attention=Attention(
            qkv=part(backbone, f"{block}.attn_qkv"),
            o=_gated(backbone, f"{block}.attn_out", adaln, gate),
        ),
        mlp_norm=_norm(backbone, f"{block}.norm2", adaln, mlp_shift, mlp_scale),
        mlp=DenseMLP(
            None,
            part(backbone, f"{block}.mlp.0"),
            _gated(backbone, f"{block}.mlp.2", adaln, mlp_gate),
            _gated(backbone, f"{block}.mlp", adaln, mlp_gate),
        ),
        block=part(backbone, block),
    )


def _constants(layers: list[Layer], final_norm: LayerNorm) -> list[Modulation]:
    """The `Modulation`s, each once."""
    norms = (*(layer.attention_norm for layer in layers), final_norm)
    found = [norm.modulation for norm in norms if isinstance(norm, LayerNorm)]
    return [modulation for modulation in found if modulation is not None]


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a live BD3-LM; UnsupportedModelError naming what does not fit."""
    config, backbone = need(model, "config"), need(model, "backbone")
    wanted = {"cross_attn": True, "causal": False, "time_conditioning": False}
    for name, value in wanted.items():
        found = bool(getattr(config, name, value))
        require(found is value, name, found)
    native = type(backbone).__module__.startswith("dpad.models.")
    layers = [_layer(backbone, number) for number in range(len(need(backbone, "blocks")))]
    final_norm = _norm(
        backbone, "output_layer.norm_final", _modulation(backbone, "output_layer", 2)
    )
    mask, ends = getattr(config, "mask_token_id", None), llama_tree.ids(config, "eos_token_id")
    if config.vocab_size == _VOCAB and not ends:
        ends = (_END_OF_TEXT,)
    head_dim = config.hidden_dim // config.n_heads
    return Adapter(
        family=FAMILY,
        model=model,
        embed=part(backbone, "vocab_embed", Table, weight_name="embedding"),
        layers=layers,
        final_norm=final_norm,
        head=part(backbone, "output_layer.linear", Head),
        num_heads=config.n_heads,
        num_kv_heads=config.n_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        rope_theta=_ROPE_THETA,
        rope_full_precision=False,
        max_positions=config.model_length,
        shift=0,
        mask_id=config.vocab_size - 1 if mask is None else mask,
        end_ids=ends,
        pad_id=getattr(config, "pad_token_id", None),
        attention="block-causal",
        block_length=config.block_size,
        untrained_mask=True,
        honours_mask=native,
        output_class="MaskedLMOutput",
        forward_takes={} if native else {"sample_mode": True, "timesteps": ...},
        constants=_constants(layers, final_norm),
        notes=llama_tree.rope_notes(backbone, _ROPE_THETA, head_dim, "see docs/loading.md"),
    )
