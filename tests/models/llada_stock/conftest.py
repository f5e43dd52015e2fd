"""The double of LLaDA's released remote code at both revisions, with the golden weights."""

import pytest
import torch

from tests.doubles import remote
from tests.generation.common import META


@pytest.fixture(params=(1, 2), ids=("v1", "v2"))
def revision(request):
    return request.param


@pytest.fixture
def stock(weights, revision):
    return remote.llada_model(META["config"], revision, weights)


@pytest.fixture
def ids():
    return torch.randint(0, 290, (3, 37), generator=torch.Generator().manual_seed(3))
