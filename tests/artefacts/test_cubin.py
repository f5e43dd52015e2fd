"""Registers, spills and shared memory of every CUDA kernel, read from the built module."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

import dpad.ops  # noqa: F401 (registers torch.ops.dpad)

# Kernel -> most registers per thread, most static shared memory in bytes (1 KiB is reserved).
BUDGET = {
    "suffix_gather": (40, 1024),
    "rope_kv_write": (64, 1024),
    "add_rms_norm": (40, 2048),
    "swiglu": (40, 1024),
}


@pytest.fixture(scope="module")
def cuobjdump(module_path):
    """Output of cuobjdump for _C_cuda."""
    module = module_path("_C_cuda")
    folder = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    packaged = sorted(folder.glob("cu*/bin/cuobjdump"))
    program = shutil.which("cuobjdump") or (packaged[-1] if packaged else None)
    if program is None:
        pytest.skip("cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)")

    def run(option):
        command = [str(program), option, str(module)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


def usage(text):
    """(kernel, function, {resource: amount}) of every function in every architecture."""
    for function, line in re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", text):
        kernel = re.search(r"\d([a-z][a-z_]*?)_kernel", function).group(1)
        yield kernel, function, {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", line)}


def test_every_kernel_keeps_its_budget(cuobjdump):
    seen = set()
    for kernel, function, used in usage(cuobjdump("-res-usage")):
        registers, shared = BUDGET[kernel]
        seen.add(kernel)
        assert used["LOCAL"] == 0, function
        assert used["STACK"] <= 16, function  # a call of the slow path of a division
        assert used["REG"] <= registers, function
        assert used["SHARED"] <= shared, function
    assert seen == set(BUDGET)


def test_every_architecture_of_the_build_is_there(cuobjdump):
    wanted = set(torch.ops.dpad.build_info().split(" for ")[1].split())
    listed = set(re.findall(r"\.sm_(\w+)\.cubin", cuobjdump("--list-elf")))
    assert listed == {name.removesuffix("-real") for name in wanted}
