"""Sizes without work, and results and scratch memory that cannot be had."""

import subprocess
import sys
import time

import pytest
import torch


def test_sizes_without_work_take_no_time():
    """[2^40, 0]: nothing to compute, and nothing is."""
    begun = time.perf_counter()
    rows = torch.empty(2**40, 0)
    assert torch.ops.dpad.add_rms_norm_(rows, None, torch.empty(0), 1e-5).shape == rows.shape
    assert torch.ops.dpad.swiglu(rows, rows).shape == rows.shape
    assert torch.ops.dpad.linear(rows, torch.empty(0, 0), None).shape == rows.shape
    assert time.perf_counter() - begun < 20  # a loop over them takes an hour


HUGE = {
    "swiglu": lambda x: (x.expand(4, 2**50), x.expand(4, 2**50)),
    "linear": lambda x: (x.expand(2**50, 1), x.expand(16, 1), None),
}


@pytest.mark.parametrize("name", HUGE)
def test_results_that_memory_cannot_hold(name):
    """The operator and the bytes are named."""
    with pytest.raises(RuntimeError, match=rf"dpad::{name}: out of memory: .* \d{{16,}} bytes"):
        getattr(torch.ops.dpad, name)(*HUGE[name](torch.zeros(1, 1)))


LARGE_HEADS = """
import resource, torch
from dpad import ops
torch.set_num_threads(2)
q = torch.zeros(1, 1, 2**25, dtype=torch.bfloat16)
one = torch.tensor([1])
args = (torch.tensor([0, 1]), torch.tensor([0]), one, 1.0)
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for _ in range(2):
    try:
        ops.block_attention(q, q, q, *args)
    except RuntimeError as error:
        print(error)
small = torch.ones(1, 1, 8)
assert torch.equal(ops.block_attention(small, small, small, *args), small)
"""


def test_scratch_memory_that_cannot_be_had():
    """Heads of 2^25: 10 GB of scratch memory in 6 GB of addresses. Small calls go on."""
    command = [sys.executable, "-W", "ignore", "-c", LARGE_HEADS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    text = "dpad::block_attention: out of memory: its scratch memory, 10737439744 bytes,"
    assert done.stdout == f"{text} could not be allocated\n" * 2
