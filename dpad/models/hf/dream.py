"""Dream without remote code: the released configuration and weight names on plain torch.

Covers Dream-v0-Base-7B, Dream-v0-Instruct-7B, Dream-Coder-7B and DiffuCoder-7B (arXiv 2508.15487)
and any smaller model of that shape. The forward is differentiable and bidirectional, has no
key/value cache, and masks padding out; its logits are not shifted: row i predicts position i + 1.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from dpad.models.hf.dream_config import DreamConfig, check_supported
from dpad.models.hf.interface import NativeModel, refuse_inputs
from dpad.models.hf.llada import padding_bias

__all__ = ["DreamConfig", "DreamModel"]


def rope_table(config: DreamConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables (cos, sin), fp32 [B, 1, T, head_dim], of int64 positions [B, T]."""
    head_dim = config.hidden_size // config.num_attention_heads
    index = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    inverse = 1.0 / (config.rope_theta ** (index / head_dim))
    angles = (positions[..., None].float() * inverse).repeat(1, 1, 2)[:, None]
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, H, T, head_dim] by half-split tables in x's dtype."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * sin.to(x.dtype)


class DreamRMSNorm(nn.Module):
    """Root-mean-square norm: fp32 statistics, cast to the input's dtype, then times the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.variance_epsilon = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * y.to(x.dtype)


class DreamAttention(nn.Module):
    """Grouped-query attention over all visible positions; q, k and v have biases."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        kv_size = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=True)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=True)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, width = x.shape
        projections = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (y.view(batch, length, -1, self.head_dim).transpose(1, 2) for y in projections)
        q, k = _rotate(q, *rope), _rotate(k, *rope)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = (y.repeat_interleave(groups, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, width))


class DreamMLP(nn.Module):
    """SwiGLU of three matrices without biases."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DreamDecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.self_attn = DreamAttention(config)
        self.mlp = DreamMLP(config)
        self.input_layernorm = DreamRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = DreamRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class DreamBaseModel(nn.Module):
    """Embedding, layers and final norm, under the released module names."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.embed_tokens: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DreamDecoderLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = DreamRMSNorm(config.hidden_size, config.rms_norm_eps)


class DreamModel(NativeModel, PreTrainedModel):
    """Dream with its language-model head; same weights as the released class of this name."""

    config_class = DreamConfig
    base_model_prefix = "model"
    _no_split_modules: ClassVar = ["DreamDecoderLayer"]
    _supports_sdpa = True

    def __init__(self, config: DreamConfig) -> None:
        super().__init__(config)
        check_supported(config)  # fields may have been changed since it was made
        self.model = DreamBaseModel(config)
        self.lm_head: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | str | None = None,
        position_ids: Tensor | None = None,
        past_key_values: object = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        num_logits_to_keep: int = 0,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Predict position i + 1 in row i, from all visible positions.

        `input_ids` int64 [B, T], or `inputs_embeds` [B, T, hidden_size]; `attention_mask`: None or
        "full", [B, T] with nonzero = a real token, or 4-D, bool or additive, as it goes to
        attention; `position_ids` [B, T], default 0..T-1; `num_logits_to_keep`: last rows only.
        Returns a `MaskedLMOutput` with `logits` [B, T, vocab_size] in the model's dtype.

        Raises ValueError for both or neither of input_ids and inputs_embeds, a mask of another
        shape, or what a bidirectional model without cache cannot give, see `refuse_inputs`.
        """
        del cache_position  # positions are 0..T-1 or `position_ids`
        refuse_inputs(self, past_key_values, labels, use_cache, output_attentions)
        if return_dict is None:
            return_dict = self.config.return_dict
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = x.shape[:2]
        if isinstance(attention_mask, str):
            if attention_mask != "full":
                raise ValueError(f"attention_mask = {attention_mask!r}: expected 'full'")
            attention_mask = None
        if attention_mask is None or attention_mask.dim() != 4:
            attention_mask = padding_bias(attention_mask, batch, length)
        if position_ids is None:
            position_ids = torch.arange(length, device=x.device).expand(batch, length)
        rope = rope_table(self.config, position_ids)
        states = []
        for layer in self.model.layers:
            states.append(x)
            x = layer(x, attention_mask, rope)
        x = self.model.norm(x)
        states.append(x)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        logits = self.lm_head(x[:, -num_logits_to_keep:])
        hidden = tuple(states) if output_hidden_states else None
        if not return_dict:
            return (logits,) if hidden is None else (logits, hidden)
        return MaskedLMOutput(logits=logits, hidden_states=hidden)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # nn.init functions only: the loader makes them skip what a checkpoint has filled.
        if isinstance(module, DreamRMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            bias = getattr(module, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
