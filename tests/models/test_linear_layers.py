"""Which linear layers run on the operator, and that nothing of the user's is passed over."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import dpad
from dpad import ops
from dpad.models import linear_layers
from dpad.models.parts import Head, Part
from tests.decode.common import tiny

pytestmark = pytest.mark.once

IN, OUT = 1024, 512  # as many elements as the least weight that runs on the operator


@pytest.fixture
def calls(monkeypatch):
    """Rows of every call of the operator."""
    if ops.cpu_isa() not in linear_layers.ISAS:
        pytest.skip("no instruction set here on which the operator stands in")
    found, operator = [], ops.linear

    def counted(x, weight, bias=None):
        found.append(x.shape[0])
        return operator(x, weight, bias)

    monkeypatch.setattr(ops, "linear", counted)
    return found


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(IN, OUT)


@torch.inference_mode()
def run(module, rows=8, dtype=torch.float32):
    """The layer by way of a decoder's part, which must agree with the module."""
    x = torch.randn(rows, IN, dtype=dtype)
    out = Part(nn.ModuleDict({"layer": module}), "layer")(x)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out, module(x), rtol=tolerance, atol=tolerance)
    return out


def test_plain_layers_of_few_rows(calls, layer):
    for rows in (1, 2, 33, 512, 513):
        run(layer, rows)
    layer.bias = None
    run(layer, 5)
    assert calls == [2, 33, 512, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_grouped_products(calls, monkeypatch, dtype):
    """By the operator in the dtypes that it has products for, by torch in the others."""
    torch.manual_seed(0)
    x, weight = torch.randn(5, 16).to(dtype), torch.randn(3, 7, 16).to(dtype)
    offsets, found = torch.tensor([2, 2, 5], dtype=torch.int32), []
    operator, args = ops.grouped_linear, (x, weight, offsets)
    monkeypatch.setattr(ops, "grouped_linear", lambda *a: found.append(a) or operator(*a))
    with torch.inference_mode():
        out = linear_layers.grouped_product(*args)
        assert len(found) == (dtype in linear_layers.rows_of(ops.cpu_isa()))
        torch.testing.assert_close(out, ops.reference.grouped_linear(*args), rtol=2e-2, atol=2e-2)
        compiled = torch.compile(linear_layers.grouped_product, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), out, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gated_products(monkeypatch, dtype):
    """The operator where it has products for the dtype, else what it stands for."""
    torch.manual_seed(0)
    x, weight = torch.randn(4, 16).to(dtype), torch.randn(3, 14, 16).to(dtype)
    row, offsets = torch.tensor([3, 0, 3, 1, 2]), torch.tensor([2, 2, 5], dtype=torch.int32)
    operator, args, found = ops.grouped_swiglu, (x, row, weight, offsets), []
    monkeypatch.setattr(ops, "grouped_swiglu", lambda *a: found.append(a) or operator(*a))
    with torch.inference_mode():
        out = linear_layers.gated_product(*args)
        assert len(found) == (dtype in linear_layers.rows_of(ops.cpu_isa()))
        gate, up = linear_layers.grouped_product(x[row], weight, offsets).chunk(2, -1)
        assert torch.equal(out, ops.swiglu(gate, up))
        compiled = torch.compile(linear_layers.gated_product, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), out, rtol=2e-2, atol=2e-2)


def test_the_isa_decides(calls, layer):
    before = ops.cpu_isa()
    ops.set_cpu_isa("portable")
    run(layer)
    ops.set_cpu_isa(before)
    assert calls == []


class Own(nn.Linear):
    pass


def instance_forward(layer):
    layer.forward = lambda x: nn.functional.linear(x, layer.weight, layer.bias)
    return layer


def forward_hook(layer):
    layer.register_forward_hook(lambda module, args, out: out * 2)
    return layer


def forward_pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return layer


class Marked(torch.Tensor):
    """A tensor subclass, as quantised weights are."""


def subclass_weight(layer):
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Marked), requires_grad=False)
    return layer


def turned_weight(layer):
    layer.weight = nn.Parameter(torch.randn(IN, OUT).T)
    return layer


OTHERS = {
    "subclass": lambda layer: Own(IN, OUT),
    "other module": lambda layer: nn.Sequential(layer),
    "instance forward": instance_forward,
    "forward hook": forward_hook,
    "forward pre-hook": forward_pre_hook,
    "parametrization": parametrizations.weight_norm,
    "weight of a subclass": subclass_weight,
    "weight by columns": turned_weight,
    "small weight": lambda layer: nn.Linear(IN, OUT - 1),
    "compiled": lambda layer: torch.compile(layer, backend="eager"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_called(calls, layer, name):
    run(OTHERS[name](layer))
    assert calls == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_called(calls, layer, dtype):
    run(layer.to(dtype), rows=7, dtype=dtype)
    assert calls == []


def test_bfloat16_where_pairs_have_an_instruction(calls, layer):
    if "avx512bf16" not in ops.cpu_extensions():
        pytest.skip("no products of pairs here")
    layer.to(torch.bfloat16)
    for rows in (7, 8, 16, 17, 24, 25, 32, 96, 97):
        run(layer, rows, torch.bfloat16)
    assert calls == [8, 16, 25, 32, 96]
    rows = "8 to 16 and 25 to 96 rows"
    report = linear_layers.where([layer])
    assert report == f"cpu kernel (avx512) for {rows} of 1 plain modules; others are called"
    before = ops.cpu_isa()
    ops.set_cpu_isa("avx2")
    run(layer, 32, torch.bfloat16)
    ops.set_cpu_isa(before)
    odd = nn.Linear(1025, 512).bfloat16()
    assert not linear_layers.suits(odd.weight, odd.bias)
    assert not linear_layers.suits(odd.weight[:, :1024])  # its rows lie an odd number apart
    assert calls == [8, 16, 25, 32, 96]


def test_float16_where_torch_has_no_kernels(calls, layer, monkeypatch):
    rows = {torch.float32: linear_layers.ROWS}
    for found, expected in ((rows, []), ({**rows, torch.float16: linear_layers.ROWS}, [8])):
        monkeypatch.setattr(linear_layers, "rows_of", lambda isa, found=found: found)
        run(layer.to(torch.float16), dtype=torch.float16)
        assert calls == expected
    with torch.inference_mode(), pytest.raises(RuntimeError):
        linear_layers.call(layer, torch.randn(8, IN))  # float32 rows: the module's own error
    assert calls == [8]


def test_hooks_on_every_module_are_run(calls, layer):
    seen = []
    hook = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        run(layer)
    finally:
        hook.remove()
    assert calls == [] and seen.count(layer) == 2


def test_gradients_autocast_and_other_shapes(calls, layer):
    x = torch.randn(4, IN)
    assert linear_layers.call(layer, x).requires_grad
    with torch.no_grad():
        assert linear_layers.call(layer, x[None]).shape == (1, 4, OUT)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear_layers.call(layer, x).dtype == torch.bfloat16
        assert calls == []
        linear_layers.call(layer, x)
    assert calls == [4]


def test_wrong_width_is_an_error(layer):
    with torch.inference_mode(), pytest.raises(RuntimeError, match="linear"):
        linear_layers.call(layer, torch.randn(4, IN - 1))


def test_compiled_code_calls_the_module(calls, layer):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    x = torch.randn(4, IN)
    with torch.no_grad():
        torch.compile(lambda x: linear_layers.call(layer, x), fullgraph=True, backend=backend)(x)
    assert len(graphs) == 1 and calls == []
    assert not any("dpad" in str(node.target) for node in graphs[0].graph.nodes)


def test_tied_head(calls):
    tree = nn.ModuleDict({"wte": nn.Embedding(OUT, IN)})
    head = Head(tree, "wte", tied=True, scale=0.5)
    x = torch.randn(3, IN)
    with torch.inference_mode():
        expected = x @ tree["wte"].weight.T * 0.5
        torch.testing.assert_close(head(x), expected, rtol=1e-5, atol=1e-4)
    assert calls == [3]


OPTIONS = {"max_new_tokens": 24, "block_length": 8, "threshold": 0.6, "seed": 3, "cache": "dual"}


def test_a_decoder_on_the_operator(calls, monkeypatch):
    """Same tokens, every layer of every pass on the operator; and the report says so."""
    model, prompt = tiny(), [[5, 6, 7, 8, 9]]
    with dpad.patch(model) as handle:
        expected = model.generate(prompt, **OPTIONS)
        assert calls == [] and dict(handle.rows())["linear"] == "the model's own modules, called"
        monkeypatch.setattr(linear_layers, "LEAST_WEIGHT", 1)
        assert torch.equal(model.generate(prompt, **OPTIONS), expected)
        layers = len(handle.adapter.called()) - 1
        assert f"for 2 to 512 rows of {layers} plain modules" in repr(handle)
    assert 8 in calls and len(calls) % layers == 0
