"""On every device `generate` gives the tokens of the reference algorithm on the CPU (float32)."""

import pytest
import torch

import dpad
from dpad.testing.reference_decoder import reference
from tests.generation.common import MASK_ID

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
