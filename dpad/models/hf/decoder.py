"""The native model that the Llama- and Qwen-shaped families share, on plain torch.

Released module tree and state-dict keys. The forward is differentiable, has no key/value cache, and
masks padding out; attention is over everything or by blocks, as the configuration says. What a
layer holds is the configuration's to say, see `DecoderConfig`.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, modeling_outputs
from transformers.utils import ModelOutput

from dpad.models.hf.decoder_config import DecoderConfig, check_served
from dpad.models.hf.interface import NativeModel, refuse_inputs
from dpad.models.hf.llada import padding_bias


def rope_table(config: DecoderConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables (cos, sin), fp32 [B, 1, T, rotary_width], of int64 positions [B, T]."""
    width = config.rotary_width
    index = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    inverse = 1.0 / (config.rope_theta ** (index / width))
    angles = (positions[..., None].float() * inverse).repeat(1, 1, 2)[:, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first columns of x [B, H, T, head_width], by half-split tables in x's dtype."""
    x, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = x.chunk(2, dim=-1)
    y = x * cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * sin.to(x.dtype)
    return torch.cat((y, rest), dim=-1) if rest.shape[-1] else y


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor]
) -> Tensor:
    """Attention [B, T, heads * head_width] of q [B, T, heads, head_width] and k, v [B, T, kv_heads,
    head_width], before RoPE.
    """
    q, k, v = (y.transpose(1, 2) for y in (q, k, v))
    q, k = rotate(q, *rope), rotate(k, *rope)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (y.repeat_interleave(groups, dim=1) for y in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    """Root-mean-square norm: fp32 statistics, cast to the input's dtype, then times the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.variance_epsilon = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * y.to(x.dtype)


class DecoderAttention(nn.Module):
    """Grouped-query attention over what the mask shows; q and k are normed if the family does."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_width
        q_size = config.num_attention_heads * self.head_dim
        kv_size = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=config.o_bias)
        if config.head_norms:
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor]) -> Tensor:
        heads = (*x.shape[:2], -1, self.head_dim)
        q, k, v = (y.view(heads) for y in (self.q_proj(x), self.k_proj(x), self.v_proj(x)))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        return self.o_proj(attend(q, k, v, mask, rope))


class DecoderMLP(nn.Module):
    """SwiGLU of three matrices without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RoutedMLP(nn.Module):
    """A mixture of experts: a row goes through those that the router scores best, one expert after
    the other, and their results are added in the dtype, or in float32 and rounded once.
    """

    full_precision = False

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.top_k, self.normalise = config.num_experts_per_tok, config.normalise_experts
        self.round_weights = config.round_expert_weights
        self.gate: nn.Module = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        sizes = config.hidden_size, config.expert_width
        self.experts = nn.ModuleList(DecoderMLP(*sizes) for _ in range(config.num_experts))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        weight, expert = self.choose(rows)
        out = torch.zeros_like(rows, dtype=torch.float32 if self.full_precision else x.dtype)
        for number, mlp in enumerate(self.experts):
            row, k = torch.where(expert == number)
            y = mlp(rows[row]) * weight[row, k, None]
            out = out.index_add(0, row, y.to(out.dtype))
        return out.to(x.dtype).view(x.shape)

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and experts int64, both [rows, top_k], of rows [rows, hidden_size]."""
        weight, expert = self.gate(x).float().softmax(-1).topk(self.top_k, dim=-1)
        if self.normalise:
            weight = weight / weight.sum(-1, keepdim=True)
        return weight.to(x.dtype) if self.round_weights else weight, expert


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual."""

    def __init__(self, config: DecoderConfig, number: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = DecoderAttention(config)
        mixture = config.routed(number)
        self.mlp = RoutedMLP(config) if mixture else DecoderMLP(width, config.mlp_width)
        self.input_layernorm = RMSNorm(width, eps)
        self.post_attention_layernorm = RMSNorm(width, eps)

    def forward(self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class DecoderModel(nn.Module):
    """Embedding, layers and final norm, under the released module names."""

    def __init__(self, config: DecoderConfig, layer_class: type[nn.Module], embedding: str) -> None:
        super().__init__()
        self.add_module(embedding, nn.Embedding(config.vocab_size, config.hidden_size))
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(layer_class(config, number) for number in layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


def visible(attention_mask: Tensor | None, position: Tensor, block: int | None) -> Tensor | None:
    """What attention takes as its mask: None, bool or additive, broadcastable to [B, heads, T, T].

    `attention_mask`: None, [B, T] with nonzero = a real token, or 3-D and 4-D, bool or additive,
    as it goes to attention; `position` int64 [B, T]; `block` counts from position 0, or None.
    """
    if attention_mask is not None and attention_mask.dim() in (3, 4):
        return attention_mask[:, None] if attention_mask.dim() == 3 else attention_mask
    mask = padding_bias(attention_mask, *position.shape)
    if block is None:
        return mask
    place = position // block
    blocks = (place[:, :, None] >= place[:, None])[:, None]
    if mask is None:
        return blocks
    # Padding may see nothing else: itself, lest its NaN reaches the others' sums.
    alone = torch.eye(position.shape[1], dtype=torch.bool, device=position.device)
    return (blocks & mask) | alone


class DecoderLM(NativeModel, PreTrainedModel):
    """The model with its head; a family's class says its configuration, what it returns, and its
    layer and the embedding's name where they are others.

    A tied head is a use of the embedding, not a second parameter.
    """

    config_class = DecoderConfig
    layer_class: ClassVar[type[nn.Module]] = DecoderLayer
    embedding: ClassVar[str] = "embed_tokens"
    base_model_prefix = "model"
    _no_split_modules: ClassVar = ["DecoderLayer"]
    _supports_sdpa = True
    output_class = modeling_outputs.CausalLMOutputWithPast

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        check_served(config)  # fields may have been changed since it was made
        self.build(config)
        self.post_init()

    def build(self, config: Any) -> None:
        """Makes the modules."""
        self.model = DecoderModel(config, self.layer_class, self.embedding)
        if config.tie_word_embeddings:
            self._keys_to_ignore_on_load_unexpected = ["lm_head.weight"]
        else:
            self.lm_head: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: object = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> ModelOutput | tuple[Any, ...]:
        """Logits of every row, not shifted.

        `input_ids` int64 [B, T], or `inputs_embeds` [B, T, hidden_size]; `attention_mask` [B, T],
        nonzero = a real token, or 3-D or 4-D, bool or additive, in place of the model's own
        attention; `position_ids` [B, T], default 0..T-1, from which blocks count too;
        `logits_to_keep`: last rows only. Returns the family's output with `logits`
        [B, T, vocab_size] in the model's dtype and `hidden_states` on request (every layer's input
        and what the last norm gives).

        Raises ValueError for both or neither of input_ids and inputs_embeds, a mask of another
        shape, or what this forward cannot give, see `refuse_inputs`.
        """
        del cache_position  # positions are 0..T-1 or `position_ids`
        refuse_inputs(self, past_key_values, labels, use_cache, output_attentions)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = x.shape[:2]
        if position_ids is None:
            position_ids = torch.arange(length, device=x.device)[None]
        position_ids = position_ids.expand(batch, length)
        mask = visible(attention_mask, position_ids, self.config.block_length)
        rope = rope_table(self.config, position_ids)
        states = []
        for layer in self.get_layers():
            states.append(x)
            x = layer(x, mask, rope)
        x = self.get_normed(x)
        states.append(x)
        logits = self.get_output_logits(x[:, -logits_to_keep:])
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = tuple(states) if output_hidden_states else None
        if return_dict is None:
            return_dict = self.config.return_dict
        if not return_dict:
            return (logits,) if hidden is None else (logits, hidden)
        return self.output_class(logits=logits, hidden_states=hidden)

    def get_layers(self) -> Iterable[Callable[..., Tensor]]:
        """What the forward calls with (x, mask, rope), one after the other."""
        return self.model.layers

    def get_normed(self, x: Tensor) -> Tensor:
        """What the head reads of what the layers give."""
        return self.model.norm(x)

    def get_output_logits(self, x: Tensor) -> Tensor:
        """Logits [..., vocab_size] of normed rows [..., hidden_size]."""
        if self.config.tie_word_embeddings:
            return F.linear(x, cast("Tensor", self.get_input_embeddings().weight))
        return self.lm_head(x)

    def get_input_embeddings(self) -> nn.Module:
        return getattr(self.model, self.embedding)

    def set_input_embeddings(self, value: nn.Module) -> None:
        setattr(self.model, self.embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        tied = self.config.tie_word_embeddings
        return self.get_input_embeddings() if tied else self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        if self.config.tie_word_embeddings:
            self.set_input_embeddings(value)
        else:
            self.lm_head = value

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: a tied head reads the embedding directly."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # nn.init functions only: the loader makes them skip what a checkpoint has filled.
        if isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            bias = getattr(module, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
