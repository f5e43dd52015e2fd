"""A double of Dream's released remote code, for tests: same names, same behaviour, small.

Class names, attribute paths, configuration fields, signatures and side effects are those of the
released ``modeling_dream.py`` and ``generation_utils.py`` (arXiv 2508.15487), their oddities
included: the string "full" as attention mask, no 2-D masks, a cache that is filled and never
returned, rotary tables in non-persistent buffers at the top and in every layer, tied-weight names
as a list. With the files of its configuration and its samplers it stands alone, as remote code
does, so that a copy of the three can be loaded by
``AutoModel.from_pretrained(..., trust_remote_code=True)``.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .dream_stock_config import DreamConfig
from .dream_stock_generation import DreamGenerationConfig, DreamGenerationMixin


class DreamRMSNorm(nn.Module):
    """Statistics in float32, cast, then times the weight."""

    def __init__(self, hidden_size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        wide = hidden_states.to(torch.float32)
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed.to(hidden_states.dtype)


class DreamRotaryEmbedding(nn.Module):
    """cos and sin of given positions, by a buffer that no checkpoint holds."""

    def __init__(self, config, device=None):
        super().__init__()
        scaling = config.rope_scaling
        self.rope_type = "default" if scaling is None else scaling.get("rope_type", "default")
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.config, self.rope_kwargs = config, {}
        self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]  # no "default" on 5.x: KeyError
        self._fill(device)

    def _fill(self, device):
        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.original_inv_freq = self.inv_freq

    def reset_parameters(self):
        self._fill(self.inv_freq.device)

    @torch.no_grad()
    def forward(self, x, position_ids):
        with torch.autocast(x.device.type, enabled=False):
            frequency = self.inv_freq[None, :, None].float().expand(len(position_ids), -1, 1)
            angle = (frequency @ position_ids[:, None, :].float()).transpose(1, 2)
            angle = torch.cat((angle, angle), dim=-1)
        tables = (angle.cos(), angle.sin())
        return tuple((t * self.attention_scaling).to(x.dtype) for t in tables)


def rotate_half(x):
    low, high = x.chunk(2, dim=-1)
    return torch.cat((-high, low), dim=-1)


def apply_rotary_pos_emb(q, k, cos, sin):
    cos, sin = cos[:, None], sin[:, None]
    return tuple((x * cos) + (rotate_half(x) * sin) for x in (q, k))


class DreamMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.hidden_size, self.intermediate_size = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(self.hidden_size, self.intermediate_size, bias=False)
        self.up_proj = nn.Linear(self.hidden_size, self.intermediate_size, bias=False)
        self.down_proj = nn.Linear(self.intermediate_size, self.hidden_size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, hidden_state):
        return self.down_proj(
            self.act_fn(self.gate_proj(hidden_state)) * self.up_proj(hidden_state)
        )


class DreamAttention(nn.Module):
    """Attention with explicit weights; the subclass below is what runs."""

    def __init__(self, config, layer_idx=None):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.hidden_size, self.num_heads = config.hidden_size, config.num_attention_heads
        self.head_dim = self.hidden_size // self.num_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.num_key_value_groups = self.num_heads // self.num_key_value_heads
        self.max_position_embeddings = config.max_position_embeddings
        self.rope_theta, self.is_causal = config.rope_theta, False
        self.attention_dropout = config.attention_dropout
        keys = self.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(self.hidden_size, self.hidden_size, bias=True)
        self.k_proj = nn.Linear(self.hidden_size, keys, bias=True)
        self.v_proj = nn.Linear(self.hidden_size, keys, bias=True)
        self.o_proj = nn.Linear(self.hidden_size, self.hidden_size, bias=False)
        self.rotary_emb = DreamRotaryEmbedding(config=config)

    def _heads(self, hidden, position_ids, past_key_value, cache_position, tables):
        """q, k and v ``[batch, heads, length, head_dim]``, rotated, past included, repeated."""
        batch, length, _ = hidden.size()
        parts = (self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden))
        q, k, v = (x.view(batch, length, -1, self.head_dim).transpose(1, 2) for x in parts)
        cos, sin = self.rotary_emb(v, position_ids) if tables is None else tables
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        if past_key_value is not None:
            more = {"sin": sin, "cos": cos, "cache_position": cache_position}
            k, v = past_key_value.update(k, v, self.layer_idx, more)
        if self.num_key_value_groups > 1:
            k, v = (x.repeat_interleave(self.num_key_value_groups, dim=1) for x in (k, v))
        return q, k, v

    def _out(self, mixed):
        batch, _, length, _ = mixed.size()
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, self.hidden_size))

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
        cache_position=None,
        position_embeddings=None,
    ):
        q, k, v = self._heads(
            hidden_states, position_ids, past_key_value, cache_position, position_embeddings
        )
        weights = q @ k.transpose(2, 3) / math.sqrt(self.head_dim)
        if attention_mask is not None:
            weights = weights + attention_mask[:, :, :, : k.shape[-2]]
        weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype)
        weights = F.dropout(weights, p=self.attention_dropout, training=self.training)
        return self._out(weights @ v), weights if output_attentions else None, past_key_value


class DreamSdpaAttention(DreamAttention):
    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
        cache_position=None,
        position_embeddings=None,
    ):
        if output_attentions:  # by the layer's own rotary table
            plain = (hidden_states, attention_mask, position_ids, past_key_value)
            return super().forward(*plain, output_attentions, use_cache)
        q, k, v = self._heads(
            hidden_states, position_ids, past_key_value, cache_position, position_embeddings
        )
        mask = attention_mask if isinstance(attention_mask, torch.Tensor) else None
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=False
        )
        return self._out(mixed), None, past_key_value


class DreamDecoderLayer(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.hidden_size = config.hidden_size
        self.self_attn = DreamSdpaAttention(config, layer_idx)
        self.mlp = DreamMLP(config)
        self.input_layernorm = DreamRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = DreamRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
        cache_position=None,
        position_embeddings=None,
        **kwargs,
    ):
        mixed, weights, present = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_value=past_key_value,
            output_attentions=output_attentions,
            use_cache=use_cache,
            cache_position=cache_position,
            position_embeddings=position_embeddings,
        )
        hidden_states = hidden_states + mixed
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        more = ((weights,) if output_attentions else ()) + ((present,) if use_cache else ())
        return (hidden_states, *more)


class DreamPreTrainedModel(PreTrainedModel):
    config_class = DreamConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DreamDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = "past_key_values"
    _supports_flash_attn_2 = _supports_sdpa = _supports_cache_class = True
    _supports_quantized_cache = _supports_static_cache = True

    def _init_weights(self, module):
        """Without its base's, which would restore the buffers of a rotary embedding on 5.x."""
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.zero_()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx].zero_()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        model = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        source = {n: kwargs[n] for n in names if n in kwargs}
        found = DreamGenerationConfig.from_pretrained(pretrained_model_name_or_path, **source)
        model.generation_config = found
        return model


class DreamBaseModel(DreamPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        layers = [DreamDecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = DreamRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = DreamRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        cache_position=None,
    ):
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        use_cache = self.config.use_cache if use_cache is None else use_cache
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if cache_position is None:
            past = 0 if past_key_values is None else past_key_values.get_seq_length()
            cache_position = torch.arange(past, past + x.shape[1], device=x.device)
        if position_ids is None:
            position_ids = cache_position[None]
        tables = self.rotary_emb(x, position_ids)
        states, attentions = (), ()
        for layer in self.layers:
            states += (x,)
            x, *more = layer(
                x,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_value=past_key_values,
                output_attentions=output_attentions,
                use_cache=use_cache,
                cache_position=cache_position,
                position_embeddings=tables,
            )
            attentions += tuple(more[:1]) if output_attentions else ()
        x = self.norm(x)
        states = (*states, x) if output_hidden_states else None
        attentions = attentions if output_attentions else None
        if not return_dict:
            return tuple(v for v in (x, states, attentions) if v is not None)
        return BaseModelOutput(last_hidden_state=x, hidden_states=states, attentions=attentions)


class DreamModel(DreamGenerationMixin, DreamPreTrainedModel):
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.model = DreamBaseModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def reset_rope_parameters(self):
        self.model.rotary_emb.reset_parameters()
        for layer in self.model.layers:
            layer.self_attn.rotary_emb.reset_parameters()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, new_embeddings):
        self.lm_head = new_embeddings

    def set_decoder(self, decoder):
        self.model = decoder

    def get_decoder(self):
        return self.model

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        cache_position=None,
        num_logits_to_keep=0,
        **loss_kwargs,
    ):
        asked = {"output_attentions": output_attentions, "return_dict": return_dict}
        asked["output_hidden_states"] = output_hidden_states
        held = {**{n: n for n in asked}, "return_dict": "use_return_dict"}
        asked = {n: getattr(self.config, held[n]) if v is None else v for n, v in asked.items()}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache_position=cache_position,
            **asked,
        )
        logits = self.lm_head(outputs[0][:, -num_logits_to_keep:, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.vocab_size, **loss_kwargs)
        if not asked["return_dict"]:
            found = (logits, *outputs[1:])
            return found if loss is None else (loss, *found)
        return MaskedLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
