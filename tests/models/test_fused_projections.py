"""Fused projections: same results, nothing of the user's changed or passed over, nothing stale."""

import copy
import gc
import io
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import dpad
from dpad import ops
from dpad.models import linear_layers
from dpad.testing.reference_decoder import reference
from tests.decode.common import MASK_ID, VOCAB, tiny
from tests.generation.conftest import dream, llada, prompts, weights  # noqa: F401

OPTIONS = {"max_new_tokens": 24, "block_length": 8, "threshold": 0.6, "seed": 3, "cache": "dual"}
IDS = torch.arange(5, 25).reshape(2, 10)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def unfused(model, ids=IDS):
    """What the model gives now with every layer called, from a copy that knows nothing."""
    clone = copy.deepcopy(model)
    clone._dpad_handle.remove()
    with dpad.patch(clone):
        return logits(clone, ids)


def close(found, expected):
    scale = expected.float().abs().max().item()
    limit = 1e-6 if found.dtype == torch.float32 else 1e-2
    assert (found - expected).abs().max().item() <= limit * max(scale, 1)


def fused_layers(handle):
    """How many layers have q, k, v fused, and how many gate, up, as the report says."""
    words = dict(handle.rows())["fused"].split()
    return int(words[words.index("v") + 2]), int(words[words.index("up") + 2])


@pytest.fixture
def model():
    return tiny()


@pytest.fixture
def handle(model):
    with dpad.patch(model, fuse_projections=True) as handle:
        yield handle


@pytest.fixture
def products(monkeypatch):
    """Output widths of every linear layer that runs, called or fused."""
    found, linear = [], torch.nn.functional.linear

    def counted(x, weight, bias=None):
        found.append(weight.shape[0])
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    return found


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_same_tokens_and_logits(request, name, prompts):  # noqa: F811
    model, ids = request.getfixturevalue(name), torch.tensor([prompts[0]])
    keys, entries = list(model.state_dict()), dict(model.__dict__)
    with dpad.patch(model):
        tokens = [model.generate([p], **OPTIONS) for p in prompts]
        expected = logits(model, ids)
    with dpad.patch(model, fuse_projections=True) as handle:
        assert fused_layers(handle) == (len(handle.adapter.layers),) * 2
        assert list(model.state_dict()) == keys
        close(logits(model, ids), expected)
        for prompt, wanted in zip(prompts, tokens, strict=True):
            assert torch.equal(model.generate([prompt], **OPTIONS), wanted)
    assert model.__dict__ == entries and list(model.state_dict()) == keys


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_the_reference_decoder_agrees(model, handle, cache):
    ids = IDS[:1]
    rule = ("threshold", 0.6)
    expected = reference(model, ids, 24, mask_id=MASK_ID, rule=rule, block_length=8, cache=cache)
    out = model.generate(
        ids,
        max_new_tokens=24,
        block_length=8,
        suffix=dpad.Suffix("all"),
        cache=cache,
        early_stop=False,
        compatible="fast-dllm-llada",
        threshold=0.6,
    )
    assert torch.equal(out, expected.tokens)


def test_products_of_a_pass(model, handle, products):
    """q, k, v (32 + 16 + 16) and gate, up (2 * 48) at once; the last layer's q by itself."""
    model.generate([[5, 6, 7]], max_new_tokens=8, block_length=8, steps=1, cache="none")
    first, last = [64, 32, 96, 32], [32, 32, 32, 96, 32]
    assert products == [*first, *last, VOCAB]


def test_the_report_states_layers_and_bytes(model, handle):
    wanted = sum(
        part.module.weight.nbytes
        for layer in handle.adapter.layers
        for part in (layer.q, layer.k, layer.v, layer.gate, layer.up)
    )
    assert handle.adapter.fused.nbytes == wanted
    assert f"q, k, v of 2 and gate, up of 2 of 2 layers, {wanted} bytes more" in repr(handle)
    handle.remove()
    assert "gate, up of 0 of 2 layers, 0 bytes more" in repr(handle)
    with dpad.patch(model) as plain:
        assert "fused" not in dict(plain.rows())


def test_remove_frees_the_copies(model, handle):
    model.generate([[5, 6]], **OPTIONS)
    copies = [weakref.ref(fused.weight) for fused in handle.adapter.fused._fused.values()]
    assert len(copies) == 6
    handle.remove()
    gc.collect()
    assert not any(copy() is not None for copy in copies)
    handle.adapter.fused.refresh()
    assert handle.adapter.fused.nbytes == 0


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
    before = logits(model)
    CHANGES[name](model)
    found = logits(model)
    assert (found - before).abs().max() > 1e-4
    close(found, unfused(model))
    assert fused_layers(handle) == (2, 2)
    tokens = model.generate([[5, 6, 7]], **OPTIONS)
    handle.remove()
    assert torch.equal(tokens, dpad.generate(model, [[5, 6, 7]], **OPTIONS))


def test_unchanged_weights_are_not_copied_again(model, handle):
    before = {parts: fused.weight for parts, fused in handle.adapter.fused._fused.items()}
    model.generate([[5, 6]], **OPTIONS)
    logits(model)
    after = handle.adapter.fused._fused
    assert all(after[parts].weight is weight for parts, weight in before.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype(model, handle, dtype):
    old = handle.adapter.fused.nbytes
    model.to(dtype)
    close(logits(model), unfused(model))
    assert handle.adapter.fused.nbytes == old // 2 and fused_layers(handle) == (2, 2)


class Doubled(nn.Module):
    """A wrapper as LoRA's: the plain layer inside, something else around it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base

    def forward(self, x):
        return 2 * self.base_layer(x)


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
    before, block = logits(model), model.model.transformer.blocks[0]
    change(model, block)
    found = logits(model)
    assert fused_layers(handle) == (1, 2)
    assert (found - before).abs().max() > 1e-3
    handle.remove()
    with dpad.patch(model):
        close(found, logits(model))


def test_a_replaced_layer_is_fused_once_it_is_plain_again(model, handle):
    block = model.model.transformer.blocks[0]
    before = logits(model)
    plain, block.up_proj = block.up_proj, Doubled(block.up_proj)
    logits(model)
    assert fused_layers(handle) == (2, 1)
    block.up_proj = plain
    assert torch.equal(logits(model), before) and fused_layers(handle) == (2, 2)


def test_gradients_reach_the_parameters(model, handle):
    layer = handle.adapter.layers[0]
    x = torch.randn(3, 32, requires_grad=True)
    parts = layer.q, layer.k, layer.v
    sum(out.sum() for out in handle.adapter.products(parts, x)).backward()
    assert all(part.module.weight.grad is not None for part in parts)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_of_the_model_do_not_carry_them(model, handle, way):
    expected, size = logits(model), handle.adapter.fused.nbytes
    buffer = io.BytesIO()
    torch.save(model, buffer)
    plain = io.BytesIO()
    with dpad.patch(tiny()) as other:
        torch.save(other.model, plain)
    assert buffer.tell() < plain.tell() + size // 8
    if way == "deepcopy":
        clone = copy.deepcopy(model)
    else:
        buffer.seek(0)
        clone = torch.load(buffer, weights_only=False)
    own = clone._dpad_handle
    assert own.adapter.fused is not handle.adapter.fused and own.adapter.fused.nbytes == 0
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert torch.equal(logits(clone), expected) and own.adapter.fused.nbytes == size
    own.remove()
    assert handle.active and logits(model).abs().max() == 0


def test_compiled_code_calls_the_modules(model, handle):
    widths = []

    def backend(graph, inputs):
        for node in graph.graph.nodes:
            if "linear" in str(node.target):
                widths.append(node.meta["example_value"].shape[-1])
        return graph

    expected = logits(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    close(logits(compiled), expected)
    assert widths.count(48) == 4 and not {64, 96} & set(widths)
    with torch.no_grad():
        model.model.transformer.blocks[0].q_proj.weight.neg_()
    close(logits(compiled), unfused(model))
    torch._dynamo.reset()


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


def test_on_the_operator(model, handle, monkeypatch):
    """The operator stands in for a fused product as it does for a module."""
    if ops.cpu_isa() not in linear_layers.ISAS:
        pytest.skip("no instruction set here on which the operator stands in")
    expected, widths, operator = logits(model), [], ops.linear

    def counted(x, weight, bias=None):
        widths.append(weight.shape[0])
        return operator(x, weight, bias)

    monkeypatch.setattr(ops, "linear", counted)
    monkeypatch.setattr(linear_layers, "LEAST_WEIGHT", 1)
    close(logits(model), expected)
    assert widths == 2 * [64, 32, 96, 32] + [VOCAB]


def test_errors(model):
    with pytest.raises(TypeError, match=r"fuse_projections = 1: expected True or False"):
        dpad.patch(model, fuse_projections=1)
    assert "_dpad_handle" not in model.__dict__
