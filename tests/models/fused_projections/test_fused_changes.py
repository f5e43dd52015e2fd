"""Fused projections of layers that change: nothing stale, nothing of the user's passed over."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import dpad
from tests.generation.common import Doubled, logits
from tests.models.fused_projections.common import IDS, OPTIONS, close, fused_layers, unfused

pytestmark = pytest.mark.once


def optimizer_step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with torch.enable_grad():
        model(IDS).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def inference_mode_change(model):
    with torch.inference_mode():
        for block in model.model.transformer.blocks:
            block.k_proj.weight.mul_(-1)
            block.up_proj.weight.mul_(-1)


def replaced_module(model):
    block = model.model.transformer.blocks[1]
    block.v_proj = nn.Linear(32, 16, bias=False)


def replaced_parameter(model):
    """Of the same storage and with as many changes counted as the one before."""
    layer = model.model.transformer.blocks[0].ff_proj
    counted = layer.weight._version
    layer.weight = nn.Parameter(layer.weight.data)
    with torch.no_grad():
        layer.weight.neg_()
        while layer.weight._version < counted:
            layer.weight.mul_(1)


CHANGES = {
    "optimizer step": optimizer_step,
    "under inference mode": inference_mode_change,
    "load_state_dict": lambda m: m.load_state_dict({k: -v for k, v in m.state_dict().items()}),
    "assigned state": lambda m: m.load_state_dict(
        {k: v * -1 for k, v in m.state_dict().items()}, assign=True
    ),
    "rounded and back": lambda m: m.to(torch.bfloat16).float(),
    "replaced module": replaced_module,
    "replaced parameter": replaced_parameter,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_weight_is_copied_anew(model, handle, name):
    before = logits(model, IDS)
    CHANGES[name](model)
    found = logits(model, IDS)
    assert (found - before).abs().max() > 1e-4
    close(found, unfused(model))
    assert fused_layers(handle) == (2, 2)
    tokens = model.generate([[5, 6, 7]], **OPTIONS)
    handle.remove()
    assert torch.equal(tokens, dpad.generate(model, [[5, 6, 7]], **OPTIONS))


def test_unchanged_weights_are_not_copied_again(model, handle):
    before = {parts: fused.weight for parts, fused in handle.adapter.fused._fused.items()}
    model.generate([[5, 6]], **OPTIONS)
    logits(model, IDS)
    after = handle.adapter.fused._fused
    assert all(after[parts].weight is weight for parts, weight in before.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype(model, handle, dtype):
    old = handle.adapter.fused.nbytes
    model.to(dtype)
    close(logits(model, IDS), unfused(model))
    assert handle.adapter.fused.nbytes == old // 2 and fused_layers(handle) == (2, 2)


def wrapped(model, block):
    block.q_proj = Doubled(block.q_proj)


def hooked(model, block):
    block.k_proj.register_forward_hook(lambda module, args, out: out * 2)


def parametrized(model, block):
    parametrizations.weight_norm(block.v_proj)
    with torch.no_grad():
        block.v_proj.parametrizations.weight.original0.mul_(2)


def one_bias(model, block):
    block.v_proj.bias = nn.Parameter(torch.ones(16))


def by_instance(model, block):
    layer = block.q_proj
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight)


def uncounted(model, block):
    with torch.inference_mode():
        block.q_proj.weight = nn.Parameter(block.q_proj.weight * 2, requires_grad=False)


@pytest.mark.parametrize(
    "change", [wrapped, hooked, parametrized, one_bias, by_instance, uncounted]
)
def test_what_is_not_plain_is_called(model, handle, change):
    before, block = logits(model, IDS), model.model.transformer.blocks[0]
    change(model, block)
    found = logits(model, IDS)
    assert fused_layers(handle) == (1, 2)
    assert (found - before).abs().max() > 1e-3
    handle.remove()
    with dpad.patch(model):
        close(found, logits(model, IDS))


def test_a_replaced_layer_is_fused_once_it_is_plain_again(model, handle):
    block = model.model.transformer.blocks[0]
    before = logits(model, IDS)
    plain, block.up_proj = block.up_proj, Doubled(block.up_proj)
    logits(model, IDS)
    assert fused_layers(handle) == (2, 1)
    block.up_proj = plain
    assert torch.equal(logits(model, IDS), before) and fused_layers(handle) == (2, 2)


def test_likelihood_is_of_the_weights_of_now(model, handle):
    def score():
        return dpad.loglikelihood(model, [([5, 6, 7], [8, 9])], samples=4, seed=1).value

    before = score()
    with torch.no_grad():
        model.model.transformer.blocks[0].q_proj.weight.neg_()
    found = score()
    handle.remove()
    torch.testing.assert_close(found, score())
    assert not torch.equal(found, before)


def test_threads(model, handle):
    """Threads decode while another makes the copies be made anew, of the same values."""
    expected, found, errors = model.generate([[5, 6, 7]], **OPTIONS), [], []

    def work(touches):
        try:
            for _ in range(6):
                if touches:
                    with torch.no_grad():
                        model.model.transformer.blocks[0].q_proj.weight.mul_(1)
                found.append(model.generate([[5, 6, 7]], **OPTIONS))
        except Exception as error:  # reported below: a thread's error is silent otherwise
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n == 0,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(found) == 18
    assert all(torch.equal(tokens, expected) for tokens in found)
