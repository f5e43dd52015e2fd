"""Settings of the whole test suite."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# The tensors of the tests are small: a second thread would mostly wait for the first.
torch.set_num_threads(1)

# Random sweeps are repeatable: the same cases at every run. DPAD_CASES asks for more of them.
settings.register_profile(
    "dpad",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("DPAD_CASES", "40")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("dpad")


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("slow"):
            if not mark.kwargs.get("reason"):
                raise pytest.UsageError(f"{item.nodeid}: pytest.mark.slow needs a reason")
