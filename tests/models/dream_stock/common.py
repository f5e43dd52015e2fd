"""What makes Dream's released code run on new Transformers, and the golden model's ids."""

import torch

from tests.doubles import dream_stock_generation
from tests.generation.common import DREAM
from tests.models.common import V5

IDS = {n: DREAM["config"].get(n, DREAM["mask_id"]) for n in ("mask_token_id", "pad_token_id")}
IDS |= {"bos_token_id": 301, "eos_token_id": 300}


def default_frequencies(config=None, device=None, seq_len=None, **_):
    """What ``ROPE_INIT_FUNCTIONS["default"]`` is before Transformers 5."""
    size = config.hidden_size // config.num_attention_heads
    index = torch.arange(0, size, 2, dtype=torch.int64, device=device).float()
    return 1.0 / (config.rope_theta ** (index / size)), 1.0


def cure(code, monkeypatch, samplers=dream_stock_generation):
    """What makes the released code run on 5.x, in its own modules only."""
    if V5:
        known = {**code.ROPE_INIT_FUNCTIONS, "default": default_frequencies}
        monkeypatch.setattr(code, "ROPE_INIT_FUNCTIONS", known)
        config = samplers.DreamGenerationConfig
        monkeypatch.setattr(config, "validate", lambda self, *args, **kwargs: None)
