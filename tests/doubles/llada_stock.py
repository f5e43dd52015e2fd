"""A double of LLaDA's released remote code, for tests: same names, same behaviour, small.

Class names, attribute paths, configuration fields, forward signatures and side effects are those of
the released ``modeling_llada.py`` (arXiv 2502.09992), its oddities included: two configuration
objects, rotary tables in a dict under mangled names, the inner model called by ``.forward``, no
``post_init``, a ``tie_weights`` without arguments. With the file of its configurations it stands
alone, as remote code does, so that a copy of the two can be loaded by
``AutoModel.from_pretrained(..., trust_remote_code=True)``.

Revision 2 adds the attention mask to the scores; revision 1 builds a bias and drops it. Two
revisions in one process are two modules: `tests.doubles.remote.llada`.
"""

import math
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .llada_stock_config import LLaDAConfig, ModelConfig

REVISION = globals().get("REVISION", 2)


class BufferCache(dict):
    """Tables that are neither parameters nor buffers."""


class Dropout(nn.Dropout):
    def forward(self, input):
        return input if self.p == 0.0 else super().forward(input)


class SiLU(nn.SiLU):
    @property
    def output_multiplier(self):
        return 1.0


class RMSLayerNorm(nn.Module):
    """Statistics in float32, cast, then times the weight."""

    def __init__(self, config, size=None):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.weight = nn.Parameter(torch.ones(size or config.d_model))
        self.register_parameter("bias", None)

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.float32)
            normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
            return self.weight * normed.to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Rotates dense positions 0, 1, ...; the tables are shared by all blocks."""

    def __init__(self, config, cache):
        super().__init__()
        self.config = config
        self.__cache = cache
        self.rope_theta = config.rope_theta
        self.get_rotary_embedding(config.max_sequence_length, torch.device("cpu"))

    def get_rotary_embedding(self, seq_len, device):
        for name in ("rope_pos_sin", "rope_pos_cos"):
            table = self.__cache.get(name)
            if table is None or table.shape[-2] < seq_len:
                self._fill(seq_len, device)
                break
            if table.device != device:
                self.__cache[name] = table.to(device)
        sin, cos = self.__cache["rope_pos_sin"], self.__cache["rope_pos_cos"]
        return sin[:, :, :seq_len, :], cos[:, :, :seq_len, :]

    def _fill(self, seq_len, device):
        size = self.config.d_model // self.config.n_heads
        exponent = torch.arange(0, size, 2, device=device, dtype=torch.float) / size
        position = torch.arange(seq_len, device=device, dtype=torch.float)
        angle = torch.outer(position, 1.0 / (self.rope_theta**exponent))
        angle = torch.cat((angle, angle), dim=-1)[None, None]
        self.__cache["rope_pos_sin"], self.__cache["rope_pos_cos"] = angle.sin(), angle.cos()

    def rotate_half(self, x):
        low, high = x.unflatten(-1, (2, -1)).unbind(-2)
        return torch.cat((-high, low), dim=-1)

    def apply_rotary_pos_emb(self, pos_sin, pos_cos, t):
        return (t * pos_cos + self.rotate_half(t) * pos_sin).to(t.dtype)

    def forward(self, q, k):
        wide = [x.float() if self.config.rope_full_precision else x for x in (q, k)]
        with torch.autocast(q.device.type, enabled=False):
            n = k.shape[-2]
            sin, cos = (t.type_as(wide[0]) for t in self.get_rotary_embedding(n, q.device))
            rows = slice(n - q.shape[-2], n)
            out_q = self.apply_rotary_pos_emb(sin[:, :, rows], cos[:, :, rows], wide[0])
            out_k = self.apply_rotary_pos_emb(sin, cos, wide[1])
        return out_q.type_as(q), out_k.type_as(k)


class LLaDABlock(nn.Module):
    """What all block types share."""

    def __init__(self, layer_id, config, cache):
        super().__init__()
        self.layer_id, self.config = layer_id, config
        self.hidden_size = config.mlp_hidden_size or config.mlp_ratio * config.d_model
        self.__cache = cache
        self._activation_checkpoint_fn = None
        self.dropout = Dropout(config.residual_dropout)
        self.q_norm = self.k_norm = None
        self.act = SiLU()
        self.attn_out = nn.Linear(config.d_model, config.d_model, bias=config.include_bias)
        self.ff_out = nn.Linear(self.hidden_size, config.d_model, bias=config.include_bias)
        self.ff_out._is_residual = True
        self.rotary_emb = RotaryEmbedding(config, cache)
        self.flash_attn_func = None

    def _scaled_dot_product_attention(self, q, k, v, attn_mask=None, dropout_p=0.0):
        groups = q.size(1) // k.size(1)
        if groups > 1:
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        mask = attn_mask if REVISION >= 2 else None
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=False
        )

    def attention(self, q, k, v, attention_bias=None, layer_past=None, use_cache=False):
        batch, length, width = q.size()
        size = width // self.config.n_heads
        q, k, v = (x.view(batch, length, -1, size).transpose(1, 2) for x in (q, k, v))
        if layer_past is not None:
            k, v = (torch.cat((old, new), dim=-2) for old, new in zip(layer_past, (k, v)))  # noqa: B905
        present = (k, v) if use_cache else None
        rows, keys = q.shape[-2], k.shape[-2]
        q, k = self.rotary_emb(q, k)
        if attention_bias is not None:
            attention_bias = attention_bias[:, :, keys - rows : keys, :keys].to(k.dtype)
            attention_bias = attention_bias.clamp(min=torch.finfo(k.dtype).min)  # no -inf
        dropout = self.config.attention_dropout if self.training else 0.0
        out = self._scaled_dot_product_attention(q, k, v, attention_bias, dropout)
        return self.attn_out(out.transpose(1, 2).contiguous().view(batch, length, width)), present


class LLaDALlamaBlock(LLaDABlock):
    def __init__(self, layer_id, config, cache):
        super().__init__(layer_id, config, cache)
        self.attn_norm, self.ff_norm = RMSLayerNorm(config), RMSLayerNorm(config)
        self.__cache = cache
        keys = config.effective_n_kv_heads * (config.d_model // config.n_heads)
        bias = config.include_bias or config.include_qkv_bias
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=bias)
        self.k_proj = nn.Linear(config.d_model, keys, bias=bias)
        self.v_proj = nn.Linear(config.d_model, keys, bias=bias)
        self.ff_proj = nn.Linear(config.d_model, self.hidden_size, bias=config.include_bias)
        self.up_proj = nn.Linear(config.d_model, self.hidden_size, bias=config.include_bias)

    def forward(self, x, attention_bias=None, layer_past=None, use_cache=False):
        normed = self.attn_norm(x)
        q, k, v = self.q_proj(normed), self.k_proj(normed), self.v_proj(normed)
        out, cache = self.attention(q, k, v, attention_bias, layer_past, use_cache)
        x = x + self.dropout(out)
        normed = self.ff_norm(x)
        hidden = self.act(self.ff_proj(normed)) * self.up_proj(normed)
        return x + self.dropout(self.ff_out(hidden)), cache


class LLaDAOutput(NamedTuple):
    logits: torch.FloatTensor
    attn_key_values: list | None
    hidden_states: tuple | None


class LLaDAModel(nn.Module):
    def __init__(self, config, init_params=True):
        super().__init__()
        self.config = config
        self.__cache = BufferCache()
        torch.backends.cuda.enable_flash_sdp(True)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        entries = config.embedding_size or config.vocab_size
        parts = {
            "wte": nn.Embedding(entries, config.d_model),
            "emb_drop": Dropout(config.embedding_dropout),
            "ln_f": RMSLayerNorm(config),
        }
        self.transformer = nn.ModuleDict(parts)
        blocks = [LLaDALlamaBlock(i, config, self.__cache) for i in range(config.n_layers)]
        self.transformer.update({"blocks": nn.ModuleList(blocks)})
        if not config.weight_tying:
            head = nn.Linear(config.d_model, entries, bias=config.include_bias)
            self.transformer.update({"ff_out": head})

    @property
    def device(self):
        return self.transformer.wte.weight.device

    def _table(self, name, seq_len, device, fill=0.0):
        """A bias table ``[1, 1, >= seq_len, >= seq_len]``; `fill` above the diagonal."""
        table = self.__cache.get(name)
        if table is None or table.shape[-1] < seq_len:
            table = torch.full((seq_len, seq_len), fill, device=device).triu(1)[None, None]
        self.__cache[name] = table = table.to(device)
        return table

    if REVISION >= 2:

        def get_bidirectional_attention_bias(self, seq_len, device):
            return self._table("bidirectional_attention_bias", seq_len, device)

        _default_bias = get_bidirectional_attention_bias
    else:

        def _default_bias(self, seq_len, device):
            floor = torch.finfo(torch.float).min
            return self._table("causal_attention_bias", seq_len, device, floor)

    def _merged_bias(self, attention_bias, attention_mask, batch, seq_len, device):
        """The additive bias for the blocks; an all-ones mask is dropped."""
        floor = torch.finfo(torch.float).min
        hidden = None
        if attention_mask is not None and 0.0 in attention_mask:  # reads the mask on the host
            hidden = (1.0 - attention_mask.float().view(batch, 1, 1, -1)) * floor
        if attention_bias is None and hidden is None:
            return None
        if attention_bias is None:
            attention_bias = self._default_bias(seq_len, device)
        elif attention_bias.dtype in (torch.int8, torch.bool):
            attention_bias = attention_bias.float()
            attention_bias.masked_fill_(attention_bias == 0.0, floor)
        attention_bias = attention_bias[:, :, :seq_len, :seq_len].float()
        if hidden is None:
            return attention_bias
        return (attention_bias + hidden).clamp_(min=floor)

    def forward(
        self,
        input_ids,
        input_embeddings=None,
        attention_mask=None,
        attention_bias=None,
        past_key_values=None,
        use_cache=False,
        last_logits_only=False,
        output_hidden_states=None,
    ):
        assert not self.config.alibi, "ALiBi is not supported"
        assert self.config.rope, "RoPE must be used"
        assert past_key_values is None and not use_cache, "a K/V cache is not supported"
        parts = self.transformer
        x = parts.wte(input_ids) if input_embeddings is None else input_embeddings
        batch, seq_len = x.shape[:2]
        x = parts.emb_drop(x)
        bias = self._merged_bias(attention_bias, attention_mask, batch, seq_len, x.device)
        states = []
        for block in parts.blocks:
            states.append(x)
            x, _ = block(x, attention_bias=bias, layer_past=None, use_cache=use_cache)
        if last_logits_only:
            x = x[:, -1:]
        x = parts.ln_f(x)
        states.append(x)
        tied = self.config.weight_tying
        logits = F.linear(x, parts.wte.weight) if tied else parts.ff_out(x)
        if self.config.scale_logits:
            logits.mul_(1 / math.sqrt(self.config.d_model))
        return LLaDAOutput(logits, None, tuple(states) if output_hidden_states else None)


def create_model_config_from_pretrained_config(config):
    return ModelConfig(**{f.name: getattr(config, f.name) for f in fields(ModelConfig)})


class LLaDAModelLM(PreTrainedModel):
    config_class = LLaDAConfig
    base_model_prefix = "model"
    _no_split_modules = ["LLaDABlock", "LLaDASequentialBlock", "LLaDALlamaBlock"]  # noqa: RUF012

    def __init__(self, config, model=None, init_params=False):
        super().__init__(config)
        if not model:
            inner = create_model_config_from_pretrained_config(config)
            inner.init_device = "cpu"
            model = LLaDAModel(inner, init_params=init_params)
        self.model = model

    def forward(
        self,
        input_ids=None,
        inputs_embeds=None,
        attention_mask=None,
        attention_bias=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        cache_position=None,
    ):
        if use_cache is None:
            use_cache = self.config.use_cache
        if output_attentions:
            raise ValueError("output_attentions is not yet supported in LLaDA")
        if return_dict is None:
            return_dict = self.config.use_return_dict
        outputs = self.model.forward(
            input_ids=input_ids,
            input_embeddings=inputs_embeds,
            attention_mask=attention_mask,
            attention_bias=attention_bias,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        if not return_dict:
            return tuple(outputs)
        return CausalLMOutputWithPast(
            logits=outputs.logits,
            past_key_values=outputs.attn_key_values,
            hidden_states=outputs.hidden_states,
        )

    def can_generate(self):
        return True

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        inputs = {"input_ids": input_ids, "past_key_values": past_key_values, **kwargs}
        return {**inputs, "use_cache": kwargs.get("use_cache", self.config.use_cache)}

    def get_input_embeddings(self):
        return self.model.transformer.wte

    def set_input_embeddings(self, value):
        self.model.transformer.wte = value

    def get_output_embeddings(self):
        parts = self.model.transformer
        return parts.wte if self.config.weight_tying else parts.ff_out

    def set_output_embeddings(self, value):
        name = "wte" if self.config.weight_tying else "ff_out"
        setattr(self.model.transformer, name, value)

    def tie_weights(self):
        if self.config.weight_tying:
            self.model.transformer.ff_out = self.model.transformer.wte
