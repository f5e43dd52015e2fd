"""LLaDA2 without remote code: the released configuration and weight names on plain torch.

Covers LLaDA2.0 and 2.1, mini and flash (arXiv 2512.15745), and any smaller model of that shape.
The forward attends by blocks of 32, as the released decoder makes it do.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import modeling_outputs

from dpad.models.hf.decoder import DecoderLM, DecoderMLP, RMSNorm, RoutedMLP, attend
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["LLaDA2MoeConfig", "LLaDA2MoeModelLM"]


class LLaDA2MoeConfig(DecoderConfig):
    """LLaDA2's configuration; the sizes are those of LLaDA2.0-mini."""

    model_type = "llada2_moe"
    block_length: ClassVar[int] = 32
    normalise_experts: ClassVar[bool] = True
    SERVED: ClassVar[dict[str, Any]] = {
        "score_function": ("sigmoid",),
        "use_bias": (False, None),
        "use_qkv_bias": (False, None),
        "use_qk_norm": (True,),
    }
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vocab_size": 157184,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 20,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 256,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 8,
        "topk_group": 4,
        "routed_scaling_factor": 2.5,
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-5,
        "mask_token_id": 156895,
        "eos_token_id": 156892,
        "pad_token_id": 156892,
    }

    @property
    def rotary_width(self) -> int:
        return int(self.head_width * self.partial_rotary_factor)

    def routed(self, layer: int) -> bool:
        return layer >= self.first_k_dense_replace


class LLaDA2Gate(nn.Module):
    """Scores by a sigmoid in float32; a bias and the best groups choose, the scores weigh."""

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        super().__init__()
        self.expert_bias: Tensor
        self.top_k, self.scaling = config.num_experts_per_tok, config.routed_scaling_factor
        self.groups, self.top_groups = config.n_group, config.topk_group
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(config.num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights float32 and experts int64, both [rows, top_k], of rows [rows, hidden_size]."""
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        choosing = scores + self.expert_bias
        parts = choosing.unflatten(-1, (self.groups, -1))
        best = parts.topk(2, dim=-1).values.sum(-1).topk(self.top_groups, dim=-1).indices
        seen = torch.zeros_like(parts[..., 0], dtype=torch.bool).scatter(1, best, True)
        choosing = parts.masked_fill(~seen[..., None], -torch.inf).flatten(1)
        expert = choosing.topk(self.top_k, dim=-1).indices
        weight = scores.gather(1, expert)
        if self.top_k > 1:  # the score of a single expert stays
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return weight * self.scaling, expert


class LLaDA2RoutedMLP(RoutedMLP):
    """Experts whose results are summed in float32, beside a shared one."""

    full_precision = True

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        super().__init__(config)
        self.gate = LLaDA2Gate(config)
        shared = config.expert_width * config.num_shared_experts
        self.shared_experts = DecoderMLP(config.hidden_size, shared)

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.gate(x)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shared_experts(x)


class LLaDA2Attention(nn.Module):
    """Grouped-query attention of one product for the heads of q, then k, then v."""

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        super().__init__()
        self.head_dim = config.head_width
        self.counts = config.num_attention_heads, *[config.num_key_value_heads] * 2
        size = config.num_attention_heads * self.head_dim
        stacked = sum(self.counts) * self.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, stacked, bias=False)
        self.query_layernorm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.key_layernorm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.dense = nn.Linear(size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor]) -> Tensor:
        heads = self.query_key_value(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split(self.counts, dim=2)
        return self.dense(attend(self.query_layernorm(q), self.key_layernorm(k), v, mask, rope))


class LLaDA2Layer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual."""

    def __init__(self, config: LLaDA2MoeConfig, number: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        mixture = config.routed(number)
        self.attention = LLaDA2Attention(config)
        self.mlp = LLaDA2RoutedMLP(config) if mixture else DecoderMLP(width, config.mlp_width)
        self.input_layernorm = RMSNorm(width, eps)
        self.post_attention_layernorm = RMSNorm(width, eps)

    def forward(self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(self.input_layernorm(x), mask, rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class LLaDA2MoeModelLM(DecoderLM):
    """LLaDA2 with its head, logits in float32; same weights as the released class of this name."""

    config_class = LLaDA2MoeConfig
    layer_class, embedding = LLaDA2Layer, "word_embeddings"
    _no_split_modules: ClassVar = ["LLaDA2Layer"]
    output_class = modeling_outputs.MoeCausalLMOutputWithPast

    def get_output_logits(self, x: Tensor) -> Tensor:
        return super().get_output_logits(x).float()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LLaDA2Gate):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.expert_bias)
