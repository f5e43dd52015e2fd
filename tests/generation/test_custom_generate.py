"""dpad as a loop of Transformers' generate, and other loops in place of dpad's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import GenerationMixin

import dpad
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from tests.generation.common import EOS_ID, META

ROOT = Path(__file__).parents[2]
OPTIONS = {"block_length": 8, "threshold": 0.6, "seed": 3}


class WithGenerate(LLaDAModelLM, GenerationMixin):
    """LLaDA with Transformers' own generate."""


@pytest.fixture
def stock(weights):
    model = WithGenerate(LLaDAConfig(**META["config"])).float().eval()
    model.load_state_dict(weights)
    return model


def test_as_a_loop_of_transformers(stock, prompts):
    ids = torch.tensor([prompts[0]])
    expected = dpad.generate(stock, ids, max_new_tokens=20, **OPTIONS)
    call = {"custom_generate": dpad.custom_generate, "max_new_tokens": 20}
    assert torch.equal(stock.generate(ids, **call, **OPTIONS), expected)
    mask = torch.ones_like(ids)
    assert torch.equal(
        stock.generate(input_ids=ids, attention_mask=mask, **call, **OPTIONS), expected
    )
    out = stock.generate(ids, **call, **OPTIONS, return_dict_in_generate=True)
    assert torch.equal(out.sequences, expected) and out.seed == 3


def test_as_a_loop_of_transformers_in_a_batch_with_configuration(stock, prompts):
    width = max(map(len, prompts))
    ids = torch.tensor([[EOS_ID] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = dpad.DPadGenerationConfig(
        max_new_tokens=20, suffix=dpad.Suffix("gaussian", window=8), cache="dual", **OPTIONS
    )
    given = {"attention_mask": mask, "generation_config": config}
    before = config.to_dict()
    expected = dpad.generate(stock, ids, **given)
    out = stock.generate(ids, custom_generate=dpad.custom_generate, **given)
    assert torch.equal(out, expected)
    assert config.to_dict() == before


def test_what_transformers_prepares_is_used(stock, prompts):
    ids = torch.tensor([prompts[0]])
    plain = dpad.generate(stock, ids, max_new_tokens=20, **OPTIONS, early_stop=False)
    banned = transformers.SuppressTokensLogitsProcessor(plain[0, -20:].unique().tolist())
    call = {"custom_generate": dpad.custom_generate, **OPTIONS, "max_new_tokens": 20}
    out = stock.generate(ids, logits_processor=[banned], **call)
    assert not torch.isin(out[0, len(prompts[0]) :], plain[0, -20:]).any()
    stop = lambda ids, scores: torch.tensor([ids.shape[1] >= len(prompts[0]) + 5])  # noqa: E731
    out = stock.generate(ids, stopping_criteria=[stop], early_stop=False, **call)
    assert torch.equal(out[0, : len(prompts[0]) + 5], plain[0, : len(prompts[0]) + 5])
    assert (out[0, len(prompts[0]) + 5 :] == EOS_ID).all()
    config = transformers.GenerationConfig(max_new_tokens=9, eos_token_id=7, pad_token_id=8)
    out = stock.generate(ids, generation_config=config, custom_generate=dpad.custom_generate)
    expected = dpad.generate(stock, ids, max_new_tokens=9, eos_token_id=7, pad_token_id=8)
    assert torch.equal(out, expected)


def test_a_cache_that_holds_something_is_refused(stock, prompts):
    class Cache:
        def get_seq_length(self):
            return 4

    with pytest.raises(ValueError, match="past_key_values holds 4 positions"):
        dpad.custom_generate(stock, torch.tensor([prompts[0]]), past_key_values=Cache())


FOLDER = """
import sys, torch, dpad
from tests.generation.common import META
from tests.generation.test_custom_generate import OPTIONS, WithGenerate, LLaDAConfig
torch.manual_seed(0)
model = WithGenerate(LLaDAConfig(**META["config"])).float().eval()
ids = torch.tensor([[1, 2, 3]])
call = {"max_new_tokens": 20, **OPTIONS}
try:
    model.generate(ids, custom_generate=sys.argv[1], **call)
except ValueError:
    pass  # Transformers wants to be told that the file may run; old versions run a local one
out = model.generate(ids, custom_generate=sys.argv[1], trust_remote_code=True, **call)
assert torch.equal(out, dpad.generate(model, ids, **call))
print("same")
"""


@pytest.mark.slow(reason="a process of its own imports Transformers and decodes")
def test_as_the_file_of_a_folder(tmp_path):
    """In a process of its own: Transformers copies such files into its modules cache."""
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    result = subprocess.run(
        [sys.executable, "-c", FOLDER, str(ROOT / "examples")],
        env={**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "same" in result.stdout


def test_a_loop_of_the_callers_own(llada, prompts):
    seen = {}

    def loop(
        model, input_ids, logits_processor, stopping_criteria, generation_config, beta=0, **more
    ):
        seen.update(locals())
        return input_ids + 1

    ids = torch.tensor([prompts[0]])
    watch = lambda ids, scores: scores  # noqa: E731
    config = dpad.DPadGenerationConfig(temperature=0.5)
    with dpad.patch(llada, config):
        out = llada.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            custom_generate=loop,
            logits_processor=[watch],
            max_new_tokens=7,
            beta=3,
        )
        assert torch.equal(out, ids + 1)
        assert seen["model"] is llada and seen["beta"] == 3
        assert isinstance(seen["logits_processor"], transformers.LogitsProcessorList)
        assert list(seen["logits_processor"]) == [watch]
        assert isinstance(seen["stopping_criteria"], transformers.StoppingCriteriaList)
        found = seen["generation_config"]
        assert (found.max_new_tokens, found.temperature, found.block_length) == (7, 0.5, 32)
        assert torch.equal(seen["more"]["attention_mask"], torch.ones_like(ids))


def test_dpads_own_loop_through_a_patched_model(llada, prompts):
    ids = torch.tensor([prompts[0]])
    expected = dpad.generate(llada, ids, max_new_tokens=20, **OPTIONS)
    with dpad.patch(llada):
        call = {"custom_generate": dpad.custom_generate, "max_new_tokens": 20, **OPTIONS}
        assert torch.equal(llada.generate(ids, **call), expected)
        out = llada.generate(ids, **call, return_dict_in_generate=True, temperature=0.5)
    again = dpad.generate(llada, ids, max_new_tokens=20, temperature=0.5, **OPTIONS)
    assert torch.equal(out.sequences, again)


def test_bad_loops_are_named(llada, prompts):
    loop = lambda model, input_ids, **kwargs: input_ids  # noqa: E731
    with pytest.raises(TypeError, match="custom_generate = 'some/repo': expected a callable"):
        dpad.generate(llada, [prompts[0]], custom_generate="some/repo")
    with pytest.raises(TypeError, match="unknown option 'beta'"):
        dpad.generate(llada, [prompts[0]], custom_generate=loop, beta=3)
    with pytest.raises(ValueError, match="kept_suffix is given, and custom_generate does not"):
        dpad.generate(llada, [prompts[0]], custom_generate=loop, kept_suffix=[[]])
    with pytest.raises(ValueError, match="stopping_criteria holds one list per row"):
        dpad.generate(llada, [prompts[0]], custom_generate=loop, stopping_criteria=[[]])
    with pytest.raises(ValueError, match="temperature = -1"):
        dpad.generate(llada, [prompts[0]], custom_generate=loop, temperature=-1)

    def fail(model, input_ids, **kwargs):
        raise KeyError("mine")

    with dpad.patch(llada):
        entries = dict(llada.__dict__)
        with pytest.raises(KeyError, match="mine"):
            llada.generate([prompts[0]], custom_generate=fail)
        assert llada.__dict__ == entries


def test_diffusion_generate_takes_the_conventions_too(dream, prompts):
    """Dream's own call: the whole canvas is one block."""
    ids, steps = torch.tensor([prompts[0]]), []

    def look(model, step, timestep, tensors):
        assert tensors["block"].shape == (1, 12)
        steps.append(step)

    banned = transformers.SuppressTokensLogitsProcessor([1, 2, 3])
    with dpad.patch(dream):
        call = {"max_new_tokens": 12, "steps": 6, "alg": "entropy"}
        plain = dream.diffusion_generate(ids, **call)
        seen = dream.diffusion_generate(ids, callback_on_step_end=look, **call)
        assert torch.equal(plain, seen) and steps == list(range(len(steps))) and len(steps) > 1
        out = dream.diffusion_generate(ids, logits_processor=[banned], **call)
        assert not torch.isin(out[0, -12:], torch.tensor([1, 2, 3])).any()
        longest = transformers.MaxLengthCriteria(ids.shape[1] + 5)
        out = dream.diffusion_generate(ids, stopping_criteria=[longest], **call)
        assert torch.equal(out[0, :-7], plain[0, :-7])
        assert (out[0, -7:] == out[0, -1]).all()
