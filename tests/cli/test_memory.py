"""Memory of a decoding: what is counted is what an engine counts, and what is measured."""

import json
import os
import subprocess
import sys

import pytest
import torch

import dpad
from dpad import demo, memory
from dpad.models.adapter import find_adapter
from tests.models.small_llada import PUBLISHED_8B, small_model

LOADERS = {"model_type": "llada", "architectures": ["LLaDAModelLM"]}


def test_the_count_is_an_engines():
    model = small_model()
    found = memory.counted(find_adapter(model), 64)
    with dpad.Engine(model, max_sequences=1, max_tokens=64, max_length=64) as engine:
        needed = engine.capacity()
    assert (found["kv"], found["pass"] + found["kv"]) == (needed.kv_bytes, needed.needed_bytes)
    assert found["weights"] == sum(p.nbytes for p in model.parameters())
    assert found["total"] == found["weights"] + needed.needed_bytes
    dpad.quantize(model, embedding=True)
    small = memory.counted(find_adapter(model), 64)
    assert small["weights"] == sum(t.nbytes for t in model.state_dict().values())
    assert small["weights"] < found["weights"] / 2 and small["kv"] == found["kv"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_count_and_measurement_agree():
    """Where freed memory goes back at once: what the C library keeps of it differs by run."""
    code = "import json; from dpad import memory; print(json.dumps(memory.check()))"
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["agrees"] is True and 0.9 < found["ratio"] < 1.05, found
    assert found["total"] > 100 << 20  # enough that what else a process takes does not matter


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_wrong_count_is_noticed(monkeypatch):
    held = []
    generate = dpad.generate

    def wasteful(*args, **options):
        held.append(b"x" * (80 << 20))  # pages that are written to
        return generate(*args, **options)

    monkeypatch.setattr(dpad, "generate", wasteful)
    assert memory.check()["agrees"] is False


def test_a_system_that_hides_its_files(monkeypatch):
    def refused():
        raise PermissionError("clear_refs")

    monkeypatch.setattr(memory, "_forget", refused)
    found = memory.check()
    assert found["measured"] is found["ratio"] is found["agrees"] is None and found["total"] > 0


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_checkpoint_is_counted_without_loading_it(dtype):
    found = memory.of_checkpoint("demo", 200, dtype)  # a checkpoint of float16
    model = demo.load(getattr(torch, "float16" if dtype == "auto" else dtype))[0]
    want = memory.counted(find_adapter(model), 200)
    for name in ("weights", "kv", "pass", "total"):
        assert found[name] == want[name], name


def test_the_released_shape_takes_no_memory_to_count(tmp_path):
    fields = {**PUBLISHED_8B, **LOADERS, "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = memory.of_checkpoint(tmp_path, 2048)
    assert found["dtype"] == "bfloat16"
    layer = 4 * 4096**2 + 3 * 4096 * 12288 + 2 * 4096
    assert found["weights"] == 2 * (32 * layer + 2 * 126464 * 4096 + 4096)
    assert found["kv"] == 2048 * 2 * 32 * 4096 * 2
    small = memory.of_checkpoint(tmp_path, 2048, "float32")
    assert small["weights"] == 2 * found["weights"]
    (tmp_path / "config.json").write_text(
        json.dumps({**fields, "quantization_config": {"quant_method": "dpad_int8"}})
    )
    with pytest.raises(ValueError, match="holds quantised weights: load it"):
        memory.of_checkpoint(tmp_path)
    with pytest.raises(OSError):
        memory.of_checkpoint(tmp_path / "nothing")
