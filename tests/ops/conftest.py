"""Every operator test runs on the compiled kernels, with poisoned uninitialised memory."""

import op_helpers
import pytest
import torch

from dpad import ops


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """The kernels are what these tests are about: without them nothing here means anything."""
    reason = ops.build_info()["_C"]
    if reason != "loaded":
        pytest.fail(f"the operator tests need the compiled module dpad._C: {reason}")


@pytest.fixture(scope="session", autouse=True)
def poison(compiled):
    """New tensors hold NaN or the largest integer: a value that nobody wrote shows up."""
    torch.set_deterministic_debug_mode("warn")
    assert torch.empty(1).isnan().all()
    yield
    torch.set_deterministic_debug_mode("default")


ISAS = ("portable", "avx2", "avx512")


@pytest.fixture(scope="module", params=op_helpers.devices())
def device(request):
    """Runs the test once on each device: the CPU, and a CUDA device where there is one."""
    with op_helpers.calls_on(request.param):
        yield request.param


@pytest.fixture(scope="module", params=op_helpers.devices(ISAS))
def isa(request):
    """Runs the test once on each instruction set of the CPU kernels, and on a CUDA device."""
    if request.param == "cuda":
        with op_helpers.calls_on("cuda"):
            yield request.param
        return
    before = ops.cpu_isa()
    try:
        ops.set_cpu_isa(request.param)
    except RuntimeError as error:
        if "does not support" not in str(error):
            raise
        pytest.skip(f"this processor does not support {request.param}")
    yield request.param
    ops.set_cpu_isa(before)
