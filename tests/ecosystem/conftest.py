"""Tiny models of both families, and the packages' reasons to skip."""

import pytest
import torch

from tests.generation.conftest import dream, dream_weights, llada, weights  # noqa: F401


@pytest.fixture(params=("llada", "dream"))
def model(request):
    """A fresh float32 model in eval mode, of each family."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def ids():
    return torch.randint(0, 290, (2, 11), generator=torch.Generator().manual_seed(9))
