"""Registers, spills, stack and shared memory of every CUDA kernel, read from the built module."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

import dpad.ops  # noqa: F401 (registers torch.ops.dpad)

# Kernel -> most registers per thread, most static shared memory in bytes.
BUDGET = {
    "suffix_gather": (40, 0),
    "rope_kv_write": (64, 0),
    "block_attention": (168, 48),
    "block_attention_merge": (80, 0),
    "block_attention_simple": (96, 32),
    "add_rms_norm": (80, 32),
    "swiglu": (64, 0),
    "confidence": (104, 2624),
    "confidence_merge": (64, 0),
    "route": (64, 0),
    "route_order": (64, 64),
    "combine_places": (40, 0),
    "combine": (64, 0),
    "uniform": (40, 0),
    "unmask": (64, 4224),
}
RESERVED = 1024  # bytes of shared memory that newer architectures count as every kernel's
REGISTERS = 65536  # of a processor; a warp takes them in pieces of 256
# Threads of a block; 256 where nothing is said.
THREADS = {"block_attention": 192, "block_attention_simple": 128}
# Blocks per processor, so that some compute while others wait for memory; 4 where nothing is said.
BLOCKS = {
    "block_attention": 2,
    "block_attention_merge": 3,
    "block_attention_simple": 2,
    "add_rms_norm": 3,
    "confidence": 2,
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
    """(architecture, kernel, function, {resource: amount}) of every compiled function."""
    architecture = 0
    for arch, function, line in re.findall(
        r"^arch = sm_(\d+)|Function (\S+):\s*\n\s*(REG:.*)", text, re.MULTILINE
    ):
        if arch:
            architecture = int(arch)
            continue
        kernel = re.search(r"\d([a-z][a-z_]*?)_kernel", function).group(1)
        yield (
            architecture,
            kernel,
            function,
            {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", line)},
        )


def fit(registers, count):
    """Blocks of `count` threads with this many registers that a processor can hold."""
    warp = -(-registers * 32 // 256) * 256
    return REGISTERS // (warp * (count // 32))


def test_every_kernel_keeps_its_budget(cuobjdump):
    seen = set()
    for architecture, kernel, function, used in usage(cuobjdump("-res-usage")):
        registers, shared = BUDGET[kernel]
        seen.add(kernel)
        # Spilled registers and indexed arrays would lie there.
        assert used["LOCAL"] == 0 and used["STACK"] == 0, (architecture, function, used)
        assert used["REG"] <= registers, (architecture, function, used)
        assert used["SHARED"] <= shared + RESERVED * (architecture >= 90), (architecture, function)
    assert seen == set(BUDGET)


def test_as_many_blocks_fit_on_a_processor_as_the_design_says(cuobjdump):
    for architecture, kernel, function, used in usage(cuobjdump("-res-usage")):
        wanted = BLOCKS.get(kernel, 4)
        assert fit(used["REG"], THREADS.get(kernel, 256)) >= wanted, (architecture, function, used)


def test_every_architecture_of_the_build_is_there(cuobjdump):
    wanted = set(torch.ops.dpad.build_info().split(" for ")[1].split())
    listed = set(re.findall(r"\.sm_(\w+)\.cubin", cuobjdump("--list-elf")))
    assert listed == {name.removesuffix("-real") for name in wanted}
