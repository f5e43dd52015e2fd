"""Cached steps that are captured and replayed, through the public interface.

On the CPU `RecordedCalls` stands in for a CUDA graph; where there is a GPU, graphs are captured.
"""

import copy

import pytest
import torch

import dpad
from dpad.decode import graphs
from tests.doubles.recorded_calls import RecordedCalls
from tests.generation.common import MASK_ID, pad
from tests.generation.test_golden import cache_of, replay, traces

pytestmark = pytest.mark.once

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
OPTIONS = {"max_new_tokens": 32, "block_length": 8, "confidence_threshold": 0.6, "cache": "dual"}
OPTIONS |= {"mask_token_id": MASK_ID, "seed": 1, "early_stop": False}


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)


def cached_traces():
    for parameter in traces():
        (trace,) = parameter.values
        if cache_of(trace["settings"]) != "none":
            yield parameter


@pytest.mark.parametrize("trace", cached_traces())
def test_published_trace(request, trace):
    replay(request.getfixturevalue(trace["model"].split("_")[0]), trace)


def decode(model, prompts, **options):
    batch = dict(zip(("input_ids", "attention_mask"), pad(prompts, "left"), strict=True))
    return model.generate(**batch, return_dict_in_generate=True, **{**OPTIONS, **options})


def decode_eagerly(model, prompts, **options):
    with dpad.patched(model, cuda_graphs=False):
        out = decode(model, prompts, **options)
    assert out.timings["replayed"] == 0 < out.timings["passes"]
    return out


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_same_tokens_as_eager(request, prompts, device, cache, name):
    model = request.getfixturevalue(name).to(device)
    eager = decode_eagerly(model, prompts, cache=cache)
    with dpad.patched(model) as handle:
        assert "captured when they are first needed (0 so far)" in repr(handle)
        for _ in range(2):
            out = decode(model, prompts, cache=cache)
            assert torch.equal(out.sequences, eager.sequences)
            assert torch.equal(out.forwards, eager.forwards)
            assert out.timings["replayed"] > 0
        small = decode(model, prompts, cache=cache, micro_batch=2)
        assert torch.equal(small.sequences, eager.sequences)
        assert "(0 so far)" not in repr(handle)


def test_the_report_says_why_not(llada, prompts):
    with dpad.patched(llada, cuda_graphs=False) as handle:
        assert "eager (cuda_graphs=False)" in repr(handle)
    with dpad.patched(llada) as handle:
        decode(llada, prompts, cache="none")
        assert "eager (cache='none' has no cached steps)" in repr(handle)
        noise = lambda rows, positions, vocab: torch.zeros(  # noqa: E731
            len(positions), vocab, dtype=torch.float64
        )
        decode(llada, prompts, noise=noise)
        assert "eager (noise is called in the middle of every step)" in repr(handle)
    graphs.CAPTURES.pop("cpu")
    with dpad.patched(llada) as handle:
        assert "eager (cpu has no graphs)" in repr(handle)
    with pytest.raises(TypeError, match="cuda_graphs = 1"):
        dpad.patch(llada, cuda_graphs=1)


def test_copies_of_a_patched_model_capture_for_themselves(llada, prompts):
    handle = dpad.patch(llada)
    out = decode(llada, prompts)
    other = copy.deepcopy(llada)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.01)
    assert torch.equal(decode(llada, prompts).sequences, out.sequences)
    captured = decode(other, prompts)
    other._dpad_handle.remove()
    assert torch.equal(captured.sequences, decode_eagerly(other, prompts).sequences)
    handle.remove()
    assert handle._workspaces.free == []


def test_fused_projections_that_are_copied_anew_are_captured_anew(llada, prompts):
    with dpad.patched(llada, fuse_projections=True):
        decode(llada, prompts)
        with torch.no_grad():
            llada.model.transformer.blocks[0].q_proj.weight.mul_(1.5)
        changed = decode(llada, prompts)
    assert torch.equal(changed.sequences, decode_eagerly(llada, prompts).sequences)


@pytest.mark.parametrize(
    "family, name",
    (
        ("llada", "model.transformer.blocks.1.up_proj"),
        ("llada", "model.transformer.blocks.1.ff_norm"),
        ("dream", "model.norm"),
        ("dream", "model.layers.1.mlp"),
    ),
)
def test_modules_with_hooks_run_eagerly(request, prompts, family, name):
    model = request.getfixturevalue(family)
    with dpad.patched(model) as handle:
        expected = decode(model, prompts)
        assert expected.timings["replayed"] > 0
        seen = []
        hook = model.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))
        out = decode(model, prompts)
        hook.remove()
        assert torch.equal(out.sequences, expected.sequences)
        assert len(seen) == out.timings["passes"] and out.timings["replayed"] == 0
        assert f"{name}' is no plain module" in repr(handle)
