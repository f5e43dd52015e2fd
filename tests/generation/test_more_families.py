"""The families of full attention beyond LLaDA and Dream decode by the same loop and defaults."""

import pytest
import torch

import dpad
from dpad.generation import presets
from dpad.models.adapter import find_adapter
from tests.doubles.reference_decoder import ordinary
from tests.generation.common import pad
from tests.models.families import golden, small

NAMES = ("RND1LM", "LLaDAMoEModelLM", "ILLaDAForCausalLM")
MASK_ID, EOS_ID, NEW = 60, 59, 20


@pytest.fixture(params=NAMES)
def model(request):
    return small(request.param)


class Shifted:
    """Row i predicts position i, whatever the model's own rows predict."""

    def __init__(self, model):
        self.model, self.shift = model, dpad.patch(model).adapter.shift
        model._dpad_handle.remove()
        self.device = model.device

    def __call__(self, *args, **kwargs):
        out = self.model(*args, **kwargs)
        if self.shift:
            out.logits = torch.cat((out.logits[:, :1], out.logits[:, :-1]), dim=1)
        return out


@pytest.mark.parametrize("steps", [None, 8])
def test_greedy_decoding_is_the_plain_loop(model, steps):
    """One token per step, the default, and a quota, without approximation."""
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(3))
    wanted = ordinary(Shifted(model), ids, NEW, mask_id=MASK_ID, block_length=5, steps=steps)
    options = {"early_stop": False, "steps": steps, "compatible": "llada"}
    with torch.no_grad():
        found = dpad.generate(model, ids, max_new_tokens=NEW, block_length=5, **options)
    assert found.equal(wanted.tokens)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_a_row_alone_and_in_a_ragged_batch(model, cache):
    prompts = [[7, 8, 9], list(range(20, 31)), [5]]
    options = {
        "max_new_tokens": NEW,
        "block_length": 8,
        "threshold": 0.5,
        "cache": cache,
        "seed": 3,
    }
    options |= {"suffix": dpad.Suffix("gaussian", window=8, decay=3.0, scale=1.6, near=2)}
    ids, mask = pad(prompts, "left", EOS_ID)
    together = dpad.generate(model, ids, attention_mask=mask, **options)
    assert together.shape == (3, ids.shape[1] + NEW) and (together != MASK_ID).all()
    for row, prompt in enumerate(prompts):
        alone = dpad.generate(model, torch.tensor([prompt]), row_keys=[row], **options)
        assert together[row, ids.shape[1] :].equal(alone[0, len(prompt) :])


def test_defaults_approximate_nothing(model):
    assert presets.defaults_for(model, find_adapter(model)) is presets.SAFE
    out = dpad.patch(model).model.generate([[5, 6, 7]], max_new_tokens=4)
    assert out.shape == (1, 7) and (out != MASK_ID).all()


def test_in_an_engine(model):
    prompts = [[5, 6, 7], list(range(20, 31))]
    wanted = [dpad.generate(model, [prompt], max_new_tokens=8) for prompt in prompts]
    with dpad.Engine(model, max_sequences=2, max_tokens=256) as engine:
        requests = [engine.submit(prompt, max_new_tokens=8) for prompt in prompts]
        found = [request.result().sequences for request in requests]
    assert all(f.equal(w) for f, w in zip(found, wanted, strict=True))


def test_likelihood_looks_at_the_answer(model):
    pairs = [([5, 6, 7], [8, 9]), ([5, 6, 7], [8, 9, 10, 11])]
    found = dpad.loglikelihood(model, pairs, samples=4, seed=1)
    assert found.value.shape == (2,) and (found.value < 0).all()


def test_rnd1_of_the_golden_weights():
    model = golden("RND1LM", "rnd1")
    ids = torch.randint(0, 290, (1, 12), generator=torch.Generator().manual_seed(3))
    wanted = ordinary(Shifted(model), ids, 24, mask_id=311, block_length=8)
    options = {"max_new_tokens": 24, "block_length": 8, "compatible": "llada"}
    assert dpad.generate(model, ids, early_stop=False, **options).equal(wanted.tokens)
