"""BD3-LM without remote code: the released configuration and weight names on plain torch.

Covers the 110M models of OpenWebText with blocks of 4, 8 and 16 (arXiv 2503.09573) and any smaller
model of that shape without time conditioning. The forward attends by blocks, as the released
sampler makes it do; it has no dropout.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import modeling_outputs

from dpad.models.hf.decoder import DecoderLM, attend
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["BD3LM", "BD3LMConfig"]

FREQUENCIES = 256  # of a time's embedding; the first half are cosines


class BD3LMConfig(DecoderConfig):
    """BD3-LM's configuration, block length `block_size`; the defaults are those of the released
    models. The mask is the last id of the vocabulary.
    """

    model_type = "bd3lm"
    attribute_map: ClassVar[dict[str, Any]] = {
        "hidden_size": "hidden_dim",
        "num_hidden_layers": "n_blocks",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_heads",
        "max_position_embeddings": "model_length",
    }
    SERVED: ClassVar[dict[str, Any]] = {
        "hidden_act": ("gelu_pytorch_tanh",),
        "causal": (False,),
        "cross_attn": (True,),
        "time_conditioning": (False,),
    }
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vocab_size": 50258,
        "hidden_dim": 768,
        "cond_dim": 128,
        "n_blocks": 12,
        "n_heads": 12,
        "model_length": 1024,
        "block_size": 4,
        "adaln": True,
        "var_min": True,
        "sampling_eps_min": 1e-3,
        "sampling_eps_max": 0.999,
        "hidden_act": "gelu_pytorch_tanh",
        "rope_theta": 10000.0,
    }

    @property
    def block_length(self) -> int:
        return self.block_size

    @property
    def mlp_width(self) -> int:
        return 4 * self.hidden_dim


class LayerNorm(nn.Module):
    """Layer norm with a weight and no bias: fp32, cast to the input's dtype."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return (F.layer_norm(x.float(), self.weight.shape) * self.weight).to(x.dtype)


def modulated(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """x [..., width], scaled and shifted by vectors [width], or as it is."""
    return x if scale is None or shift is None else x * (1 + scale) + shift


class Embedding(nn.Module):
    """A learned vector per id, under the released name."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(count, width))

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding[ids]


class TimeEmbedder(nn.Module):
    """Two layers behind the sines and cosines of a time, which is always 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """[cond_dim]"""
        time = cast("Tensor", self.mlp[0].weight).new_zeros(FREQUENCIES)
        time[: FREQUENCIES // 2] = 1
        return self.mlp(time)


class RotaryFrequencies(nn.Module):
    """Holds a released key; RoPE is computed from the configuration."""

    def __init__(self, config: BD3LMConfig) -> None:
        super().__init__()
        width = config.rotary_width
        index = torch.arange(0, width, 2).float() / width
        self.register_buffer("inv_freq", 1.0 / config.rope_theta**index)


class BD3LMBlock(nn.Module):
    """Attention and MLP, each behind a modulated norm, gated and added to the residual."""

    def __init__(self, config: BD3LMConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.heads = config.n_heads
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_width, width),
        )
        if config.adaln:
            self.adaLN_modulation = nn.Linear(config.cond_dim, 6 * width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rope: tuple[Tensor, Tensor],
        condition: Tensor | None = None,
    ) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (None,) * 6
        if condition is not None:
            vectors = self.adaLN_modulation(condition).chunk(6)
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = vectors
        qkv = self.attn_qkv(modulated(self.norm1(x), shift, scale)).unflatten(
            -1, (3, self.heads, -1)
        )
        q, k, v = qkv.unbind(2)
        y = self.attn_out(attend(q, k, v, mask, rope))
        x = x + (y if gate is None else y * gate)
        y = self.mlp(modulated(self.norm2(x), mlp_shift, mlp_scale))
        return x + (y if mlp_gate is None else y * mlp_gate)


class BD3LMOutput(nn.Module):
    """The last norm and the head."""

    def __init__(self, config: BD3LMConfig) -> None:
        super().__init__()
        self.norm_final = LayerNorm(config.hidden_dim)
        self.linear: nn.Module = nn.Linear(config.hidden_dim, config.vocab_size)
        if config.adaln:
            self.adaLN_modulation = nn.Linear(config.cond_dim, 2 * config.hidden_dim)


class BD3LMBackbone(nn.Module):
    """Embedding, blocks and head, under the released module names."""

    def __init__(self, config: BD3LMConfig) -> None:
        super().__init__()
        self.adaln = bool(config.adaln)
        self.vocab_embed: nn.Module = Embedding(config.vocab_size, config.hidden_dim)
        if self.adaln:
            self.sigma_map = TimeEmbedder(config.cond_dim)
        self.rotary_emb = RotaryFrequencies(config)
        self.blocks = nn.ModuleList(BD3LMBlock(config) for _ in range(config.n_blocks))
        self.output_layer = BD3LMOutput(config)

    def condition(self) -> Tensor | None:
        """What the modulations read, [cond_dim], or None."""
        return F.silu(self.sigma_map()) if self.adaln else None


class BD3LM(DecoderLM):
    """BD3-LM with its language-model head; same weights as the released class of this name."""

    config_class = BD3LMConfig
    base_model_prefix = "backbone"
    _no_split_modules: ClassVar = ["BD3LMBlock"]
    output_class = modeling_outputs.MaskedLMOutput

    def build(self, config: BD3LMConfig) -> None:
        self.backbone = BD3LMBackbone(config)
        if config.var_min:  # of the training
            for name in ("sampling_eps_min", "sampling_eps_max"):
                self.register_buffer(name, torch.tensor(getattr(config, name)))

    def get_layers(self) -> list[Callable[..., Tensor]]:
        condition = self.backbone.condition()
        return [partial(block, condition=condition) for block in self.backbone.blocks]

    def get_normed(self, x: Tensor) -> Tensor:
        out, condition = self.backbone.output_layer, self.backbone.condition()
        vectors = (None, None)
        if condition is not None:
            vectors = out.adaLN_modulation(condition).chunk(2)
        return modulated(out.norm_final(x), *vectors)

    def get_output_logits(self, x: Tensor) -> Tensor:
        return self.backbone.output_layer.linear(x)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.vocab_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.vocab_embed = value

    def get_output_embeddings(self) -> nn.Module:
        return self.backbone.output_layer.linear

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.backbone.output_layer.linear = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # nn.init functions only: the loader makes them skip what a checkpoint has filled.
        if isinstance(module, LayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, Embedding):
            nn.init.normal_(module.embedding, std=self.config.initializer_range)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
