"""What fused layers are compared with, and how."""

import copy

import torch

import dpad
from tests.generation.common import logits

OPTIONS = {"max_new_tokens": 24, "block_length": 8, "threshold": 0.6, "seed": 3, "cache": "dual"}
IDS = torch.arange(5, 25).reshape(2, 10)


def unfused(model):
    """What the model gives now with every layer called, from a copy that knows nothing."""
    clone = copy.deepcopy(model)
    clone._dpad_handle.remove()
    with dpad.patch(clone):
        return logits(clone, IDS)


def close(found, expected):
    scale = expected.float().abs().max().item()
    limit = 1e-6 if found.dtype == torch.float32 else 1e-2
    assert (found - expected).abs().max().item() <= limit * max(scale, 1)


def fused_layers(handle):
    """How many layers have q, k, v fused, and how many gate, up, as the report says."""
    words = dict(handle.rows())["fused"].split()
    return int(words[words.index("v") + 2]), int(words[words.index("up") + 2])
