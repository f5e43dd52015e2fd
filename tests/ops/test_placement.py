"""How the operator tests reach another device: storages travel whole and come back changed."""

import pytest
import torch
from op_helpers import Guarded, Moved, call, calls_on, devices, offsets_of

from dpad import ops


def test_moved_tensors_keep_layout_and_aliases():
    guarded = Guarded()
    first = guarded.put(torch.arange(12.0).view(3, 4), order=(1, 0), gap=2, written=True)
    moved = Moved("cpu")
    there, row = moved.put(first), moved.put(first[1])
    assert there.stride() == first.stride() and there.storage_offset() == first.storage_offset()
    assert torch.equal(there, first) and there.data_ptr() != first.data_ptr()
    row.fill_(7)
    assert first[1].tolist() == [4, 5, 6, 7]
    moved.bring_back()
    assert first.tolist() == [[0, 1, 2, 3], [7] * 4, [8, 9, 10, 11]]
    guarded.check()
    assert moved.put(None) is None and moved.put(3) == 3


def test_devices_of_this_machine(monkeypatch):
    monkeypatch.delenv("DPAD_DEVICES", raising=False)
    assert devices(("a", "b"))[:2] == ("a", "b")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ops, "loaded", lambda name: True)
    assert devices(("a",)) == ("a", "cuda")
    monkeypatch.setenv("DPAD_DEVICES", "cuda")
    assert devices(("a",)) == ("cuda",)
    monkeypatch.setenv("DPAD_DEVICES", "tpu")
    with pytest.raises(ValueError, match="DPAD_DEVICES=tpu"):
        devices()
    monkeypatch.setattr(ops, "loaded", lambda name: False)
    with pytest.raises(RuntimeError, match="there is a CUDA device, but"):
        devices()


def test_a_device_without_a_kernel_is_an_error():

    args = {
        "rng": torch.zeros(1, 3).long(),
        "l_offsets": offsets_of([1]),
        "position": offsets_of([]),
    }
    with calls_on("xpu"), pytest.raises(AssertionError, match="uniform has no kernel on xpu"):
        call("uniform", args)
    assert call("uniform", args).shape == (1,)
