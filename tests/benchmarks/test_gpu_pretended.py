"""Measurements of `benchmarks.gpu` on a pretended CUDA device: nothing lies on the wrong one."""

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from benchmarks import routed_mlp, timing
from benchmarks.gpu import figures, test_gaps
from tests.doubles.pretended_cuda import pretended_cuda

CHOSEN = "operator or attention or sampler or step or recent or refresh or mixed or followed"
CHOSEN = f"({CHOSEN} or launches or linear or narrow or gap) and not (linear and (96 or 128))"


class Event:
    """A CUDA event of a device that is done with everything at once."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


@pytest.fixture
def device():
    """A pretended device with what the measurements ask of one beyond the decoder."""
    generator, properties = (
        torch.Generator,
        SimpleNamespace(name="pretended", multi_processor_count=1, total_memory=1),
    )
    assert routed_mlp  # Transformers is loaded before functions of torch.cuda are replaced
    with pretended_cuda() as found, ExitStack() as stack:
        functions = {
            "Event": Event,
            "empty_cache": lambda: None,
            "get_device_capability": lambda device=None: (9, 0),
            "get_device_properties": lambda device: properties,
            "is_available": lambda: True,
            "synchronize": lambda device=None: found.wait(),
        }
        stack.enter_context(mock.patch.multiple(torch.cuda, **functions))
        stack.enter_context(mock.patch.object(torch, "Generator", lambda _="cpu": generator()))
        stack.enter_context(mock.patch.object(timing, "FLUSH", 1 << 12))
        stack.enter_context(mock.patch.object(timing, "profile", side_effect=OSError("none")))
        stack.enter_context(mock.patch.object(shutil, "which", lambda name: None))
        yield found


@pytest.mark.slow(reason="an operator of the pretended device takes many of Python's")
def test_measurements_run_on_a_device(device, tmp_path):
    path, folder = tmp_path / "it.json", str(Path(figures.__file__).parent)
    command = [folder, "--small", "--figures", str(path), "-k", CHOSEN, "-p", "no:cacheprovider"]
    assert pytest.main(command) == 0
    found = json.loads(path.read_text())
    assert found["machine"]["device"] == "pretended"
    kinds = {record["kind"] for record in found["cases"]}
    assert kinds >= {"operator", "attention", "sampler", "step", "launches", "recent", "refresh"}
    assert kinds >= {"mixed", "linear", "narrow", "followed", "gap"}
    gone = {r["case"]: figures.failed(r) for r in found["cases"] if figures.failed(r) is not None}
    assert list(gone) == [test_gaps.DEPENDENT] and "nvcc is not installed" in gone.popitem()[1]
    assert device.captures >= 10 and device.replays > device.captures
