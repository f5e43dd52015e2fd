"""The double of Dream's released remote code, with the golden weights or others."""

import pytest
import torch

from tests.doubles import dream_stock
from tests.generation.common import DREAM
from tests.models.common import spread_out
from tests.models.dream_stock.common import cure


@pytest.fixture
def build(monkeypatch):
    """A function of configuration fields to a double in eval mode and float32."""
    cure(dream_stock, monkeypatch)

    def make(weights=None, **changes):
        config = dream_stock.DreamConfig(**{**DREAM["config"], **changes})
        model = dream_stock.DreamModel(config).float().eval()
        if weights is None:
            return spread_out(model)
        model.load_state_dict(weights)
        return model

    return make


@pytest.fixture
def stock(build, dream_weights):
    return build(dream_weights)


@pytest.fixture
def ids():
    return torch.randint(0, 290, (3, 21), generator=torch.Generator().manual_seed(3))
