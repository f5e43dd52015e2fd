"""Wrapped and quantised layers are not captured: they run eagerly, and the report says why."""

import pytest
import torch

import dpad
from dpad.decode import graphs
from tests.doubles.recorded_calls import RecordedCalls
from tests.ecosystem.common import FAST

OPTIONS = {**FAST, "cache": "dual"}


def lora(model):
    peft = pytest.importorskip("peft")
    targets = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)][:2]
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=targets))


def int8(model):
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


@pytest.mark.parametrize("change", [lora, int8])
def test_they_run_eagerly_with_the_reason(monkeypatch, model, ids, change):
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)
    handle = dpad.patch(model)
    before = model.generate(ids, return_dict_in_generate=True, **OPTIONS)
    assert before.timings["replayed"] > 0
    change(model)
    out = model.generate(ids, return_dict_in_generate=True, **OPTIONS)
    assert out.timings["replayed"] == 0
    assert "is no plain module" in repr(handle)
    handle.remove()
    with dpad.patched(model, cuda_graphs=False):
        assert torch.equal(model.generate(ids, **OPTIONS), out.sequences)
