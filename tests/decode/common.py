"""A tiny random LLaDA for the decoding tests."""

import torch

from dpad.models.adapter import find_adapter
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

MASK_ID, EOS_ID, VOCAB = 60, 59, 67


def tiny(heads=4, kv_heads=2, layers=2, **changes):
    """A float32 model in eval mode with separated confidences."""
    torch.manual_seed(0)
    fields = {
        "d_model": 32,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "n_layers": layers,
        "mlp_hidden_size": 48,
        "vocab_size": VOCAB,
        "embedding_size": VOCAB,
        "max_sequence_length": 256,
        "mask_token_id": MASK_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        **changes,
    }
    model = LLaDAModelLM(LLaDAConfig(**fields)).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, weight.shape[1] ** -0.5)
        model.model.transformer.ff_out.weight.mul_(4)
    return model


def adapter(device="cpu", **changes):
    return find_adapter(tiny(**changes).to(device))
