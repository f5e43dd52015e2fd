"""Patching leaves no trace, survives copies and threads, and saves what it should."""

import copy
import io
import threading

import pytest
import torch

import dpad
from tests.generation.common import MASK_ID, logits

OPTIONS = {"max_new_tokens": 24, "block_length": 8, "threshold": 0.6, "seed": 3, "cache": "dual"}


def test_public_names_resolve():
    for name in dpad.__all__:
        assert getattr(dpad, name) is not None
    assert dpad.models.hf.AutoModel
    assert "patch" in dir(dpad)
    with pytest.raises(AttributeError, match="nothing"):
        dpad.nothing  # noqa: B018


def test_remove_restores_everything(llada, prompts):
    ids = torch.tensor([prompts[0]])
    before, entries, keys = logits(llada, ids), dict(llada.__dict__), list(llada.state_dict())
    other = copy.deepcopy(llada)
    handle = dpad.patch(llada)
    assert handle.active and llada._dpad_handle is handle
    assert list(llada.state_dict()) == keys
    assert torch.equal(logits(other, ids), before) and "forward" not in other.__dict__
    llada.generate([prompts[0]], **OPTIONS)
    handle.remove()
    handle.remove()
    assert not handle.active and llada.__dict__ == entries
    assert torch.equal(logits(llada, ids), before)


def test_with_statement_and_errors(llada):
    with pytest.raises(RuntimeError, match="inside"), dpad.patched(llada) as handle:
        assert handle.active
        raise RuntimeError("inside")
    assert "_dpad_handle" not in llada.__dict__
    with (
        dpad.patch(llada),
        pytest.raises(RuntimeError, match="already patched by the handle at 0x"),
    ):
        dpad.patch(llada)
    with pytest.raises(TypeError, match="unexpected keyword"):
        dpad.patch(llada, fast=True)
    with pytest.raises(TypeError, match="config is a dict"):
        dpad.patch(llada, {"temperature": 0})


def test_table_says_what_runs_where(llada):
    handle = dpad.patch(llada)
    text = repr(handle)
    for words in (
        "LLaDAModelLM",
        "active",
        "block_attention",
        "unmask_",
        "max_new_tokens",
        "float32",
    ):
        assert words in text
    handle.remove()
    assert "removed" in repr(handle)


def test_config_of_the_handle_is_the_default(llada, prompts):
    config = dpad.DPadGenerationConfig(max_new_tokens=7, block_length=7)
    with dpad.patch(llada, config):
        assert llada.generate([prompts[0]]).shape[1] == len(prompts[0]) + 7
        assert llada.generate([prompts[0]], gen_length=5).shape[1] == len(prompts[0]) + 5


def test_saving_a_patched_model(llada, tmp_path, prompts):
    with dpad.patch(llada):
        llada.save_pretrained(tmp_path)
        expected = llada.generate([prompts[0]], **OPTIONS)
    loaded = dpad.models.hf.AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(dpad.generate(loaded, [prompts[0]], **OPTIONS), expected)


def test_gradients_and_training_mode_run_the_stock_forward(llada, prompts):
    ids = torch.tensor([prompts[0]])
    with dpad.patch(llada):
        loss = llada(ids).logits.logsumexp(-1).sum()
        loss.backward()
        assert llada.model.transformer.wte.weight.grad is not None
        llada.train()
        stock = logits(llada, ids)
    assert torch.equal(stock, logits(llada, ids))


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_patched_models_of_their_own(llada, prompts, way):
    handle = dpad.patch(llada)
    expected = llada.generate([prompts[0]], **OPTIONS)
    if way == "deepcopy":
        clone = copy.deepcopy(llada)
    else:
        buffer = io.BytesIO()
        torch.save(llada, buffer)
        buffer.seek(0)
        clone = torch.load(buffer, weights_only=False)
    assert clone._dpad_handle is not handle and clone._dpad_handle.model is clone
    with torch.no_grad():
        llada.model.transformer.ff_out.weight.zero_()
    assert torch.equal(clone.generate([prompts[0]], **OPTIONS), expected)
    ids = torch.tensor([prompts[0]])
    assert logits(clone, ids).abs().max() > 0 == logits(llada, ids).abs().max()
    clone._dpad_handle.remove()
    assert handle.active and "forward" not in clone.__dict__
    assert torch.equal(dpad.generate(clone, [prompts[0]], **OPTIONS), expected)


def test_threads_share_one_patched_model(llada, prompts):
    with dpad.patch(llada):
        expected = [llada.generate([p], **OPTIONS) for p in prompts]
        results, errors = {}, []

        def work(name):
            try:
                for _ in range(3):
                    results[name] = [llada.generate([p], **OPTIONS) for p in prompts]
            except Exception as error:  # reported below: a thread's error is silent otherwise
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    for found in results.values():
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_buffers_are_reused_and_freed(llada, prompts):
    handle = dpad.patch(llada)
    llada.generate([prompts[0]], **OPTIONS)
    (workspace,) = handle._workspaces.free
    address = workspace.arena.layers[0][0].data_ptr()
    llada.generate([prompts[1]], **OPTIONS)
    assert handle._workspaces.free == [workspace]
    assert workspace.arena.layers[0][0].data_ptr() == address
    handle.remove()
    assert handle._workspaces.free == []
    assert MASK_ID not in dpad.generate(llada, [prompts[0]], **OPTIONS)
