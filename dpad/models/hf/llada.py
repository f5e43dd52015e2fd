"""LLaDA without remote code: the released configuration and weight names on plain torch.

Covers LLaDA-8B-Base, LLaDA-8B-Instruct and LLaDA-1.5 (arXiv 2502.09992, 2505.19223) and any smaller
model of that shape. A checkpoint of the released code loads here and the other way round: the field
names of `LLaDAConfig`, the module tree and the state-dict keys are the released ones. The forward
is differentiable and bidirectional, has no key/value cache, and masks padding out.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from dpad.models.hf.interface import NativeModel, refuse_inputs
from dpad.models.hf.llada_config import LLaDAConfig, check_supported

__all__ = ["LLaDAConfig", "LLaDAModelLM"]


def rope_table(config: LLaDAConfig, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rotary tables for positions 0..length-1: (cos, sin), each fp32 [length, head_dim].

    Frequencies theta^(-2i/head_dim), written twice (half-split layout). Computed from the
    configuration at every forward: there is no buffer that a loader could leave uninitialised.
    """
    head_dim = config.d_model // config.n_heads
    exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, 1.0 / (config.rope_theta**exponents)).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, full_precision: bool) -> Tensor:
    """Rotate x [B, H, T, head_dim] by half-split tables; in fp32 if `full_precision`."""
    y = x.float() if full_precision else x
    cos, sin = cos.to(y.dtype), sin.to(y.dtype)
    first, second = y.chunk(2, dim=-1)
    return (y * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class RMSLayerNorm(nn.Module):
    """Root-mean-square norm: fp32 statistics, cast to the input's dtype, then times the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            y = x.float()
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
            return self.weight * y.to(x.dtype)


class LLaDALlamaBlock(nn.Module):
    """One layer: attention and SwiGLU, each behind a norm and added to the residual."""

    def __init__(self, layer_id: int, config: LLaDAConfig) -> None:
        super().__init__()
        self.layer_id = layer_id
        self.config = config
        d_model, hidden = config.d_model, config.effective_mlp_hidden_size
        kv_size = config.effective_n_kv_heads * (d_model // config.n_heads)
        bias = bool(config.include_bias)
        qkv_bias = bias or bool(config.include_qkv_bias)
        self.attn_norm = RMSLayerNorm(d_model, config.rms_norm_eps)
        self.ff_norm = RMSLayerNorm(d_model, config.rms_norm_eps)
        self.q_proj = nn.Linear(d_model, d_model, bias=qkv_bias)
        self.k_proj = nn.Linear(d_model, kv_size, bias=qkv_bias)
        self.v_proj = nn.Linear(d_model, kv_size, bias=qkv_bias)
        self.attn_out = nn.Linear(d_model, d_model, bias=bias)
        self.ff_proj = nn.Linear(d_model, hidden, bias=bias)  # gate
        self.up_proj = nn.Linear(d_model, hidden, bias=bias)
        self.ff_out = nn.Linear(hidden, d_model, bias=bias)  # down
        for writer in (self.attn_out, self.ff_out):
            writer.init_factor = 1 / math.sqrt(2 * (layer_id + 1))  # type: ignore[assignment]

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention_bias: Tensor | None,
        rope: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Attention output [B, T, d_model] of projected q [B, T, d_model], k, v [B, T, kv_size]."""
        batch, length, d_model = q.shape
        head_dim = d_model // self.config.n_heads
        q, k, v = (x.view(batch, length, -1, head_dim).transpose(1, 2) for x in (q, k, v))
        q = _rotate(q, *rope, self.config.rope_full_precision)
        k = _rotate(k, *rope, self.config.rope_full_precision)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_bias)
        return self.attn_out(y.transpose(1, 2).reshape(batch, length, d_model))

    def forward(
        self,
        x: Tensor,
        attention_bias: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """x [B, T, d_model] -> same; `attention_bias` and `rope` as made by `LLaDAModel`."""
        if rope is None:
            rope = rope_table(self.config, x.shape[1], x.device)
        y = self.attn_norm(x)
        x = x + self.attention(self.q_proj(y), self.k_proj(y), self.v_proj(y), attention_bias, rope)
        y = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(y)) * self.up_proj(y))


def padding_bias(attention_mask: Tensor | None, batch: int, length: int) -> Tensor | None:
    """Bool mask [B, 1, 1, T] for attention, or None if nothing is padding.

    `attention_mask`: [B, T], nonzero = a real token. Raises ValueError for another shape and for a
    row that is all padding.
    """
    if attention_mask is None:
        return None
    if tuple(attention_mask.shape) != (batch, length):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected {(batch, length)}"
        )
    keep = attention_mask != 0
    if bool(keep.all()):
        return None
    empty = (~keep.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"attention_mask: row {empty[0]} is all padding")
    return keep[:, None, None, :]


if TYPE_CHECKING:

    class _Transformer(nn.ModuleDict):
        """The entries of the dict as the attributes that they are."""

        wte: nn.Module
        blocks: nn.ModuleList
        ln_f: RMSLayerNorm
        ff_out: nn.Module


class LLaDAModel(nn.Module):
    """Embedding, blocks, final norm and head, under the released module names."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.config = config
        modules: dict[str, nn.Module] = {
            "wte": nn.Embedding(config.embedding_size, config.d_model),
            "blocks": nn.ModuleList(LLaDALlamaBlock(i, config) for i in range(config.n_layers)),
            "ln_f": RMSLayerNorm(config.d_model, config.rms_norm_eps),
        }
        if not config.weight_tying:
            modules["ff_out"] = nn.Linear(
                config.d_model, config.embedding_size, bias=bool(config.include_bias)
            )
        self.transformer = cast("_Transformer", nn.ModuleDict(modules))

    @property
    def _embedding(self) -> Tensor:
        return cast("Tensor", self.transformer.wte.weight)

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    def forward(
        self,
        input_ids: Tensor | None = None,
        input_embeddings: Tensor | None = None,
        attention_bias: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Logits [B, T, embedding_size] and hidden states (every block's input, the last norm)."""
        x = self.transformer.wte(input_ids) if input_embeddings is None else input_embeddings
        rope = rope_table(self.config, x.shape[1], x.device)
        states = []
        for block in self.transformer.blocks:
            if output_hidden_states:
                states.append(x)
            x = block(x, attention_bias, rope)
        x = self.transformer.ln_f(x)
        if output_hidden_states:
            states.append(x)
        if self.config.weight_tying:
            logits = F.linear(x, self._embedding)
        else:
            logits = self.transformer.ff_out(x)
        if self.config.scale_logits:
            logits = logits * (1 / math.sqrt(self.config.d_model))
        return logits, tuple(states) if output_hidden_states else None


class LLaDAModelLM(NativeModel, PreTrainedModel):
    """LLaDA with its language-model head; same weights as the released class of this name."""

    config_class = LLaDAConfig
    base_model_prefix = "model"
    _no_split_modules: ClassVar = ["LLaDALlamaBlock"]
    _supports_sdpa = True

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(config)
        check_supported(config)  # fields may have been changed since it was made
        self.model = LLaDAModel(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
        past_key_values: object = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Predict every position from all others.

        `input_ids` int64 [B, T], or `inputs_embeds` [B, T, d_model]; `attention_mask` [B, T],
        nonzero = a real token; `attention_bias`: bool (True = visible) or additive,
        broadcastable to [B, n_heads, T, T], instead of a mask. Returns a `CausalLMOutputWithPast`
        with `logits` [B, T, embedding_size] in the model's dtype, not shifted, and
        `hidden_states` on request (n_layers + 1 tensors, the last one after `ln_f`).

        Raises ValueError for what a bidirectional model without cache cannot give: a cache,
        attention weights, a loss from `labels` (it needs the noise level: compute it from logits).
        """
        del cache_position  # positions are always 0..T-1; taken for the released signature
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        refuse_inputs(self, past_key_values, labels, use_cache, output_attentions)
        if return_dict is None:
            return_dict = self.config.return_dict
        if attention_bias is None:
            attention_bias = padding_bias(attention_mask, *given.shape[:2])
        elif attention_mask is not None:
            raise ValueError("give attention_mask or attention_bias, not both")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        logits, states = self.model(
            input_ids, inputs_embeds, attention_bias, bool(output_hidden_states)
        )
        if not return_dict:
            return (logits,) if states is None else (logits, states)
        return CausalLMOutputWithPast(logits=logits, hidden_states=states)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.transformer.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.transformer.wte = value

    def get_output_embeddings(self) -> nn.Module:
        transformer = self.model.transformer
        return transformer.wte if self.config.weight_tying else transformer.ff_out

    def set_output_embeddings(self, value: nn.Module) -> None:
        name = "wte" if self.config.weight_tying else "ff_out"
        setattr(self.model.transformer, name, value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in Transformers, which knows `vocab_size` only: the rows are `embedding_size` here."""
        embedding = super().resize_token_embeddings(*args, **kwargs)
        self.config.embedding_size = embedding.weight.shape[0]
        return embedding

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: a tied head reads the embedding directly."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Mitchell's rule (std 1/sqrt(fan-in), less for the residual's writers), or `init_std`."""
        # nn.init functions only: the loader makes them skip what a checkpoint has filled.
        if isinstance(module, RMSLayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            std = self.config.init_std
            if self.config.init_fn == "mitchell":
                std = getattr(module, "init_factor", 1.0) / math.sqrt(module.weight.shape[-1])
            nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
            bias = getattr(module, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
