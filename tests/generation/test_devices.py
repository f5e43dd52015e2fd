"""On every device `generate` gives the tokens of the reference algorithm on the CPU (float32)."""

import pytest
import torch

import dpad
from dpad.decode import device as devices
from tests.doubles.reference_decoder import reference
from tests.generation.common import MASK_ID

pytestmark = pytest.mark.once

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
NEW, BLOCK = 32, 16
RULES = {
    "threshold": ({"confidence_threshold": 0.6}, ("threshold", 0.6)),
    "quota": ({"steps": 8}, ("quota", 8)),
}


@pytest.fixture(autouse=True)
def exact_products():
    """float32 products in float32 on every device."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("rule", RULES)
def test_tokens_of_the_reference(llada, prompts, device, cache, rule):
    ours, theirs = RULES[rule]
    ids = torch.tensor([prompts[0], prompts[0][::-1]])
    options = {"mask_id": MASK_ID, "rule": theirs, "block_length": BLOCK, "cache": cache}
    expected = reference(llada, ids, NEW, **options)
    llada.to(device)
    out = dpad.generate(
        llada,
        ids.to(device),
        max_new_tokens=NEW,
        block_length=BLOCK,
        suffix=dpad.Suffix("all"),
        cache=cache,
        early_stop=False,
        compatible="fast-dllm-llada",
        mask_token_id=MASK_ID,
        return_dict_in_generate=True,
        **ours,
    )
    assert out.sequences.device.type == device
    assert torch.equal(out.sequences.cpu(), expected.tokens)
    assert out.forwards.tolist() == expected.forwards.tolist()


CALLS = {
    "threshold": {"confidence_threshold": 0.6, "cache": "dual"},
    "quota": {"steps": 8, "cache": "prefix", "suffix": dpad.Suffix("uniform", window=16, count=4)},
    "random": {"steps": 8, "remasking": "random", "temperature": 0.5},
    "guidance": {"steps": 8, "cfg_scale": 1.0, "logits_eos_inf": True},
    "filtered": {"entropy_bound": 0.5, "top_p": 0.9, "temperature": 0.7},
    "dream": {"steps": 8, "alg": "origin", "temperature": 0.7, "compatible": "dream"},
    "carried": {"steps": 8, "alg": "confidence_threshold", "confidence_threshold": 0.6},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_torchs_default_device_decides_nothing(request, prompts, family, call):
    """As after ``torch.set_default_device("cuda")``; on "meta" a tensor would lose its values."""
    model, ids = request.getfixturevalue(family), torch.tensor([prompts[0], prompts[0][::-1]])
    options = {"max_new_tokens": NEW, "block_length": BLOCK, "mask_token_id": MASK_ID, "seed": 5}
    options |= {"early_stop": False, "trace": True, **CALLS[call]}
    expected = dpad.generate(model, ids, **options)
    with torch.device("meta"):
        out = dpad.generate(model, ids, **options)
    assert torch.equal(out.sequences, expected.sequences)
    assert torch.equal(out.tokens_per_forward, expected.tokens_per_forward)
    assert [e["positions"] for e in out.trace.events] == [
        e["positions"] for e in expected.trace.events
    ]


def test_nor_for_what_runs_in_the_loop_and_for_likelihoods(llada, prompts):
    ids = torch.tensor([prompts[0]])
    options = {"max_new_tokens": NEW, "block_length": BLOCK, "mask_token_id": MASK_ID, "steps": 8}

    class Streamer:
        def __init__(self):
            self.got = []

        def put(self, tokens):
            self.got += tokens.flatten().tolist()

        def end(self):
            self.got.append("end")

    def run():
        seen, streamer = [], Streamer()
        out = dpad.generate(
            llada,
            ids,
            streamer=streamer,
            callback_on_step_end=lambda *given: seen.append(given[3]),
            callback_on_step_end_tensor_inputs=("block", "confidence", "transfer_index"),
            eos_token_id=7,
            seed=5,
            **options,
        )
        pairs = [(prompts[0], prompts[2]), ([5], [7])]
        found = dpad.loglikelihood(llada, pairs, samples=4, mask_token_id=MASK_ID)
        steps = [{name: value.tolist() for name, value in step.items()} for step in seen]
        return out.tolist(), streamer.got, steps, found.value.tolist(), found.canvases.tolist()

    expected = run()
    with torch.device("meta"):
        assert run() == expected


def test_memory_that_torch_keeps_counts_as_free(monkeypatch):
    """A cache that grows frees its buffers first, which the driver does not see."""
    for name, value in (("memory_reserved", 70), ("memory_allocated", 30)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 100))
    assert devices.free_bytes(torch.device("cuda")) == 45
