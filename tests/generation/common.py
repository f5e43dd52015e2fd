"""What the interface tests share: the golden model's ids, and padding."""

import json
from pathlib import Path

import torch

GOLDEN = Path(__file__).parents[1] / "golden"
META = json.loads((GOLDEN / "llada_mha.config.json").read_text())
DREAM = json.loads((GOLDEN / "dream_mha.config.json").read_text())
MASK_ID, EOS_ID = META["mask_id"], META["eos_id"]


def pad(prompts, side, value=EOS_ID):
    """``input_ids`` and ``attention_mask`` of ragged prompts, padded on one side."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), value)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        where = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
        ids[row, where] = torch.tensor(prompt)
        mask[row, where] = 1
    return ids, mask
