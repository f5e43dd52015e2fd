"""The families beyond LLaDA and Dream: a small configuration and the released sizes of each."""

import json

import torch
from safetensors.torch import load_file

from dpad.models import hf
from tests.generation.common import GOLDEN
from tests.models.common import spread_out

SHAPE = {
    "vocab_size": 67,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "mask_token_id": 60,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 59,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
# Class name -> fields of a small model, beside `SHAPE`.
SMALL = {
    "SDARForCausalLM": {"head_dim": 16, "block_size": 4},
    "Fast_dLLM_QwenForCausalLM": {"bd_size": 8},
    "SDARMoeForCausalLM": {"head_dim": 16, "block_size": 4, "mlp_only_layers": [0], **EXPERTS},
    "RND1LM": {"head_dim": 16, **EXPERTS},
    "LLaDAMoEModelLM": {
        "dense_intermediate_size": 40,
        "expert_intermediate_size": 24,
        "moe_layer_freq": [0, 1],
        "num_experts": 6,
        "num_experts_per_tok": 2,
    },
    "LLaDA2MoeModelLM": {
        "head_dim": 16,
        **EXPERTS,
        "num_experts": 8,
        "n_group": 4,
        "topk_group": 2,
    },
    "ILLaDAForCausalLM": {"rope_theta": 1e4, "rms_norm_eps": 1e-5},
    "A2DQwen3LMHeadModel": {"head_dim": 16},
    "A2DQwen2LMHeadModel": {"tie_word_embeddings": False, "block_size": 4},
    "A2DLlamaLMHeadModel": {},
}
# Class name -> what its released class takes for fields that a configuration leaves out and no
# shape tells; a name of Transformers: its configuration's own.
LEFT_OUT = {
    "SDARForCausalLM": {"rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 32768},
    "Fast_dLLM_QwenForCausalLM": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "max_position_embeddings": 32768,
        "bd_size": 32,
    },
    "RND1LM": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 40960,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "mask_token_id": 151669,
    },
    "LLaDAMoEModelLM": {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
    "LLaDA2MoeModelLM": {
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "max_position_embeddings": 16384,
        "num_experts_per_tok": 2,
        "n_group": 8,
        "topk_group": 4,
        "routed_scaling_factor": 2.5,
        "partial_rotary_factor": 0.5,
    },
    "BD3LM": {"rope_theta": 1e4, "max_position_embeddings": 1024, "adaln": True},
    "DreamModel": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "max_position_embeddings": 32768,
        "mask_token_id": 151666,
        "pad_token_id": 151643,
    },
    "A2DQwen3LMHeadModel": "Qwen3Config",
    "A2DQwen2LMHeadModel": "Qwen2Config",
    "A2DLlamaLMHeadModel": "LlamaConfig",
}
# (class name, fields beside the class's defaults, parameters, some shapes by key) as released.
RELEASED = {
    "SDAR-8B-Chat": (
        "SDARForCausalLM",
        {},
        8_190_735_360,
        {
            "lm_head.weight": [151936, 4096],
            "model.layers.35.self_attn.k_proj.weight": [1024, 4096],
            "model.layers.35.self_attn.k_norm.weight": [128],
            "model.layers.35.mlp.down_proj.weight": [4096, 12288],
        },
    ),
    "SDAR-4B-Chat": (
        "SDARForCausalLM",
        {"hidden_size": 2560, "intermediate_size": 9728},
        4_411_424_256,
        {"model.layers.35.self_attn.o_proj.weight": [2560, 4096]},
    ),
    "SDAR-1.7B-Chat": (
        "SDARForCausalLM",
        {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
        },
        2_031_739_904,
        {"model.layers.27.self_attn.q_proj.weight": [2048, 2048]},
    ),
    "Fast_dLLM_v2_7B": (
        "Fast_dLLM_QwenForCausalLM",
        {},
        7_615_616_512,
        {
            "model.layers.27.self_attn.q_proj.bias": [3584],
            "model.layers.27.self_attn.k_proj.weight": [512, 3584],
        },
    ),
    "Fast_dLLM_v2_1.5B": (
        "Fast_dLLM_QwenForCausalLM",
        {
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        1_543_714_304,
        {"model.embed_tokens.weight": [151936, 1536]},
    ),
    "SDAR-30B-A3B-Chat": (
        "SDARMoeForCausalLM",
        {},
        30_532_122_624,
        {
            "model.layers.47.mlp.gate.weight": [128, 2048],
            "model.layers.47.mlp.experts.127.down_proj.weight": [2048, 768],
            "model.layers.0.self_attn.q_norm.weight": [128],
        },
    ),
    "RND1-Base-0910": (
        "RND1LM",
        {},
        30_532_122_624,
        {
            "model.layers.47.mlp.experts.127.up_proj.weight": [768, 2048],
            "model.layers.47.self_attn.k_proj.weight": [512, 2048],
        },
    ),
    "LLaDA-MoE-7B-A1B-Instruct": (
        "LLaDAMoEModelLM",
        {},
        7_356_880_896,
        {
            "lm_head.weight": [157184, 2048],
            "model.layers.15.mlp.experts.63.gate_proj.weight": [1024, 2048],
            "model.layers.15.self_attn.q_norm.weight": [128],
        },
    ),
    "LLaDA2.0-mini": (
        "LLaDA2MoeModelLM",
        {},
        16_255_638_528,
        {
            "model.word_embeddings.weight": [157184, 2048],
            "model.layers.0.mlp.gate_proj.weight": [5120, 2048],
            "model.layers.1.attention.query_key_value.weight": [3072, 2048],
            "model.layers.1.attention.dense.weight": [2048, 2048],
            "model.layers.19.attention.key_layernorm.weight": [128],
            "model.layers.19.mlp.gate.weight": [256, 2048],
            "model.layers.19.mlp.gate.expert_bias": [256],
            "model.layers.19.mlp.experts.255.up_proj.weight": [512, 2048],
            "model.layers.19.mlp.shared_experts.down_proj.weight": [2048, 512],
        },
    ),
    "LLaDA2.0-flash": (
        "LLaDA2MoeModelLM",
        {
            "hidden_size": 4096,
            "intermediate_size": 9216,
            "moe_intermediate_size": 1024,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        102_889_697_280,
        {"model.layers.31.attention.query_key_value.weight": [5120, 4096]},
    ),
    "iLLaDA-8B-Instruct": (
        "ILLaDAForCausalLM",
        {"rope_theta": 1e6, "rms_norm_eps": 1e-6},
        7_615_025_152,
        {"model.layers.31.self_attn.k_proj.weight": [1024, 4096]},
    ),
    "Qwen3-0.6B-diffusion-mdlm-v0.1": (
        "A2DQwen3LMHeadModel",
        {},
        596_049_920,
        {
            "model.embed_tokens.weight": [151936, 1024],
            "model.layers.27.self_attn.q_norm.weight": [128],
            "model.layers.27.self_attn.o_proj.weight": [1024, 2048],
        },
    ),
    "Qwen2.5-0.5B, converted": (
        "A2DQwen2LMHeadModel",
        {},
        494_032_768,
        {"model.layers.23.self_attn.k_proj.bias": [128]},
    ),
    "Llama-3.2-1B, converted": (
        "A2DLlamaLMHeadModel",
        {},
        1_235_814_400,
        {"model.layers.15.mlp.down_proj.weight": [2048, 8192]},
    ),
}


def build(name, **fields):
    """A model of a native class by its name."""
    model_class = getattr(hf, name)
    return model_class(model_class.config_class(**fields)).eval()


def small(name, **changes):
    """A small float32 model with random weights whose logits are far from flat."""
    model = spread_out(build(name, **{**SHAPE, **SMALL[name], **changes}).float())
    for number, buffer in enumerate(model.buffers()):
        buffer.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    return model


def golden(name, file):
    """The float32 model of a golden weights file."""
    fields = json.loads((GOLDEN / f"{file}.config.json").read_text())["config"]
    model = build(name, **fields).float()
    model.load_state_dict(
        {k: v.float() for k, v in load_file(GOLDEN / f"{file}.safetensors").items()}
    )
    return model


def tokens(*shape):
    """Ids of no special token."""
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(7))
