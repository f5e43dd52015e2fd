"""A tiny LLaDA with spread-out confidences, for the interface and exactness tests."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

GOLDEN = Path(__file__).parents[1] / "golden"
META = json.loads((GOLDEN / "llada_mha.config.json").read_text())
MASK_ID, EOS_ID = META["mask_id"], META["eos_id"]


@pytest.fixture(scope="session")
def weights():
    return {k: v.float() for k, v in load_file(GOLDEN / "llada_mha.safetensors").items()}


@pytest.fixture
def llada(weights):
    """A fresh float32 model in eval mode."""
    model = LLaDAModelLM(LLaDAConfig(**META["config"])).float().eval()
    model.load_state_dict(weights)
    return model


@pytest.fixture
def prompts():
    """Five prompts of different lengths, as lists of ids."""
    generator = torch.Generator().manual_seed(7)
    lengths = (13, 5, 20, 1, 9)
    return [torch.randint(0, 290, (n,), generator=generator).tolist() for n in lengths]


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
