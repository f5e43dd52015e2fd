"""A tiny LLaDA with spread-out confidences, for the interface and exactness tests."""

import pytest
import torch
from safetensors.torch import load_file

from dpad.models.hf.dream import DreamConfig, DreamModel
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from tests.generation.common import DREAM, GOLDEN, META


@pytest.fixture(scope="session")
def weights():
    return {k: v.float() for k, v in load_file(GOLDEN / "llada_mha.safetensors").items()}


@pytest.fixture
def llada(weights):
    """A fresh float32 model in eval mode."""
    model = LLaDAModelLM(LLaDAConfig(**META["config"])).float().eval()
    model.load_state_dict(weights)
    return model


@pytest.fixture(scope="session")
def dream_weights():
    return {k: v.float() for k, v in load_file(GOLDEN / "dream_mha.safetensors").items()}


@pytest.fixture
def dream(dream_weights):
    """A fresh float32 Dream in eval mode."""
    model = DreamModel(DreamConfig(**DREAM["config"])).float().eval()
    model.load_state_dict(dream_weights)
    return model


@pytest.fixture(params=("llada", "dream"))
def model(request):
    """A fresh float32 model in eval mode, of each family."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def ids():
    """int64 ``[2, 11]``."""
    return torch.randint(0, 290, (2, 11), generator=torch.Generator().manual_seed(9))


@pytest.fixture
def prompts():
    """Five prompts of different lengths, as lists of ids."""
    generator = torch.Generator().manual_seed(7)
    lengths = (13, 5, 20, 1, 9)
    return [torch.randint(0, 290, (n,), generator=generator).tolist() for n in lengths]
