"""A small random model of the native LLaDA class, and the published configuration."""

import json

import torch

from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

SMALL = {
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 3,
    "mlp_hidden_size": 48,
    "vocab_size": 60,
    "embedding_size": 64,
    "max_sequence_length": 64,
    "mask_token_id": 59,
    "eos_token_id": 58,
    "pad_token_id": 58,
}

# config.json of GSAI-ML/LLaDA-8B-Instruct, without the loader's own entries
PUBLISHED_8B = json.loads(
    """{"activation_type": "silu", "alibi": false, "alibi_bias_max": 8.0, "attention_dropout": 0.0,
    "attention_layer_norm": false, "attention_layer_norm_with_affine": true,
    "bias_for_layer_norm": false, "block_group_size": 1, "block_type": "llama", "d_model": 4096,
    "embedding_dropout": 0.0, "embedding_size": 126464, "eos_token_id": 126081,
    "flash_attention": false, "include_bias": false, "include_qkv_bias": false,
    "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": false,
    "layer_norm_type": "rms", "layer_norm_with_affine": true, "mask_token_id": 126336,
    "max_sequence_length": 4096, "mlp_hidden_size": 12288, "mlp_ratio": 4, "model_type": "llada",
    "multi_query_attention": null, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32,
    "pad_token_id": 126081, "precision": "amp_bf16", "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05, "rope": true, "rope_full_precision": true, "rope_theta": 500000.0,
    "scale_logits": false, "vocab_size": 126464, "weight_tying": false}"""
)


def small_model(seed=0, **fields):
    """A random model whose logits are far from flat; biases and norms are not trivial."""
    torch.manual_seed(seed)
    model = LLaDAModelLM(LLaDAConfig(**{**SMALL, **fields})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn_like(weight))
        model.get_output_embeddings().weight.mul_(4.0)
    return model


def tokens(*shape, seed=1):
    return torch.randint(0, 58, shape, generator=torch.Generator().manual_seed(seed))
