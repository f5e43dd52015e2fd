"""Small block-causal models of the golden weights: Qwen's tree, with an adapter made by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import nn

from dpad.models.adapter import Adapter
from dpad.models.mlp import dense
from dpad.models.parts import Attention, Head, Layer, norm, part

FAMILY = "blocks"
CLASS_NAMES = ("BlockModel",)
GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = {"sdar": "sdar_gqa", "fastdllm_v2": "fastv2_gqa"}


class _Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.empty(size)), eps

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


class BlockModel(nn.Module):
    """The modules only: its forward is the patched one."""

    def __init__(self, kind, config):
        super().__init__()
        self.kind, self.config = kind, config
        width, dim = config.hidden_size, config.head_dim
        sizes = {n: dim * config.num_key_value_heads for n in "kv"}
        sizes["q"] = dim * config.num_attention_heads
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.model.norm = _Norm(width, config.rms_norm_eps)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.model.layers = nn.ModuleList()
        for _ in range(config.num_hidden_layers):
            layer, attention, mlp = nn.Module(), nn.Module(), nn.Module()
            for name, size in sizes.items():
                setattr(attention, f"{name}_proj", nn.Linear(width, size, bias=kind != "sdar"))
            attention.o_proj = nn.Linear(sizes["q"], width, bias=False)
            if kind == "sdar":
                attention.q_norm, attention.k_norm = (
                    _Norm(dim, config.rms_norm_eps) for _ in range(2)
                )
            for name in ("gate_proj", "up_proj"):
                setattr(mlp, name, nn.Linear(width, config.intermediate_size, bias=False))
            mlp.down_proj = nn.Linear(config.intermediate_size, width, bias=False)
            layer.self_attn, layer.mlp = attention, mlp
            layer.input_layernorm = _Norm(width, config.rms_norm_eps)
            layer.post_attention_layernorm = _Norm(width, config.rms_norm_eps)
            self.model.layers.append(layer)

    def forward(self, input_ids, attention_mask=None):
        raise NotImplementedError("only the patched model has a forward")


def load(kind):
    """The golden model of a kind ("sdar" or "fastdllm_v2"), float32, in evaluation mode."""
    name = KINDS[kind]
    stored = json.loads((GOLDEN / f"{name}.config.json").read_text())
    fields = {"head_dim": 16, **stored["config"], "mask_token_id": stored["mask_id"]}
    model = BlockModel(kind, SimpleNamespace(**fields))
    weights = load_file(GOLDEN / f"{name}.safetensors")
    model.load_state_dict({n: t.float() for n, t in weights.items()})
    return model.eval()


def _layer(block, normed):
    eps = "variance_epsilon"
    heads = ("q_norm", "k_norm") if normed else ()
    return Layer(
        attention_norm=norm(block, "input_layernorm", eps),
        attention=Attention(
            **{n: part(block, f"self_attn.{n}_proj") for n in "qkvo"},
            **{n: norm(block, f"self_attn.{n}", eps) for n in heads},
        ),
        mlp_norm=norm(block, "post_attention_layernorm", eps),
        mlp=dense(block, "mlp"),
    )


def adapt(model):
    """The adapter of a `BlockModel`."""
    config, sdar = model.config, model.kind == "sdar"
    return Adapter(
        family=FAMILY,
        model=model,
        embed=part(model, "model.embed_tokens"),
        layers=[_layer(block, sdar) for block in model.model.layers],
        final_norm=norm(model, "model.norm", "variance_epsilon"),
        head=part(model, "lm_head", Head),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rotary_dim=config.head_dim,
        rope_theta=config.rope_theta,
        rope_full_precision=False,
        max_positions=config.max_position_embeddings,
        shift=0 if sdar else 1,
        mask_id=config.mask_token_id,
        end_ids=(config.eos_token_id,),
        pad_id=config.eos_token_id,
        attention="block-causal",
        block_length=4 if sdar else 32,
    )
