"""The routed MLP against the loops over experts of Transformers' and of the released classes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3

from dpad import ops
from dpad.models import fused_projections
from dpad.models.mlp import RoutedMLP, Routing, dense, routed
from dpad.models.parts import part
from tests.generation.common import Doubled
from tests.models.common import V5, spread_out

WIDTH, FFN, EXPERTS, TOP = 32, 48, 8, 3


class MLP(nn.Module):
    def __init__(self, size=FFN):
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, size, bias=False)
        self.up_proj = nn.Linear(WIDTH, size, bias=False)
        self.down_proj = nn.Linear(size, WIDTH, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    """LLaDA2's: a bare weight, scores in float32, groups, a bias that only chooses."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, WIDTH))
        self.register_buffer("expert_bias", torch.randn(EXPERTS))

    def forward(self, x):
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        choosing = scores + self.expert_bias
        groups = choosing.view(-1, 4, EXPERTS // 4).topk(2, dim=-1)[0].sum(-1)
        best = groups.topk(2, dim=-1)[1]
        seen = torch.zeros_like(groups).scatter_(1, best, 1).repeat_interleave(EXPERTS // 4, 1)
        expert = choosing.masked_fill(seen == 0, float("-inf")).topk(TOP, dim=-1)[1]
        weight = scores.gather(1, expert)
        return expert, weight / (weight.sum(-1, keepdim=True) + 1e-20) * 2.5


class Block(nn.Module):
    """Experts apart; a Linear as router, or LLaDA2's gate and a shared expert."""

    def __init__(self, grouped):
        super().__init__()
        self.gate = Gate() if grouped else nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(MLP() for _ in range(EXPERTS))
        if grouped:
            self.shared_experts = MLP(FFN // 2)

    def forward(self, hidden):
        x = hidden.view(-1, WIDTH)
        if isinstance(self.gate, Gate):
            expert, weight = self.gate(x)
        else:
            logits = self.gate(x)
            weight, expert = logits.float().softmax(-1).topk(TOP, dim=-1)
            weight = weight / weight.sum(-1, keepdim=True)
        out = torch.zeros(x.shape, dtype=torch.float32)
        for number, mlp in enumerate(self.experts):
            row, k = torch.where(expert == number)
            if len(row):
                out[row] += mlp(x[row]).float() * weight[row, k, None]
        out = out.to(x.dtype)
        if isinstance(self.gate, Gate):
            out = out + self.shared_experts(x)
        return out.view(hidden.shape), (weight, expert)


GROUPED = Routing(TOP, "sigmoid", True, 4, 2, 2.5, wide=True)


def routed_of(block, grouped=False, **more):
    """The part of a block that stands at `mlp` of a layer, and the layer's modules."""
    tree = nn.ModuleDict({"mlp": block})
    if grouped:
        more |= {"bias": part(block, "gate.expert_bias"), "shared": dense(block, "shared_experts")}
    return routed(tree, "mlp", GROUPED if grouped else Routing(TOP), **more), tree


class View:
    """What an MLP asks of an adapter; `copies` as in `FusedProjections`."""

    def __init__(self, mlp, copies):
        self.fused = fused_projections.FusedProjections([mlp], copies)
        self.fused.refresh()

    def products(self, parts, x):
        found = self.fused.products(parts, x)
        return [part(x) for part in parts] if found is None else found

    def stack(self, parts, x):
        return self.fused.weight(parts, x)


def pack(block):
    """The experts' weights side by side in memory."""
    pairs = [m for e in block.experts for m in (e.gate_proj, e.up_proj)]
    for modules in (pairs, [e.down_proj for e in block.experts]):
        whole = torch.cat([m.weight.detach() for m in modules])
        for module, weight in zip(modules, whole.split(modules[0].out_features), strict=True):
            module.weight = nn.Parameter(weight, requires_grad=False)


@pytest.fixture
def x():
    return torch.randn(37, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def block(request):
    torch.manual_seed(1)
    return spread_out(Block(getattr(request, "param", False)))


def stock(block, x):
    with torch.inference_mode():
        out = block(x[None])
    return (out[0] if isinstance(out, tuple) else out)[0]


def run(mlp, x, copies=False):
    view = View(mlp, copies)
    with torch.inference_mode():
        return mlp(view, x), view.fused


def close(found, wanted):
    limit = 2e-6 if wanted.dtype == torch.float32 else 2e-2
    assert (found - wanted).abs().max() <= limit * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["loop", "copies", "in place"])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_way_is_the_loop_over_experts(x, dtype, how, grouped):
    torch.manual_seed(1)
    block = spread_out(Block(grouped)).to(dtype)
    x = x.to(dtype)
    wanted = stock(block, x)
    if how == "in place":
        pack(block)
    mlp, _ = routed_of(block, grouped)
    found, fused = run(mlp, x, copies=how == "copies")
    close(found, wanted)
    experts = sum(p.nbytes for p in block.experts.parameters())
    assert (fused.nbytes >= experts) is (how == "copies")
    assert (len(fused.tensors()) >= 2) is (how != "loop")
    close(run(mlp, x[:1], copies=how == "copies")[0], wanted[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalise", [False, True])
def test_transformers_own_block(x, dtype, normalise):
    """Stacked parameters and a bare router on 5.x, a list of modules on 4.57."""
    config = Qwen3MoeConfig(
        hidden_size=WIDTH,
        moe_intermediate_size=FFN,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP,
        norm_topk_prob=normalise,
    )
    config._experts_implementation = "eager"
    torch.manual_seed(1)
    block = spread_out(qwen3.Qwen3MoeSparseMoeBlock(config)).to(dtype).eval()
    how = Routing(TOP, normalise=normalise, full_precision=False)
    mlp = routed(nn.ModuleDict({"mlp": block}), "mlp", how)
    assert (mlp.stacked is not None) == V5
    x = x.to(dtype)
    scores = F.linear(x, block.gate.weight).sort(descending=True)[0]
    decided = scores[:, TOP - 1] != scores[:, TOP]  # torch's top-k breaks ties in no known order
    assert decided.sum() > 30
    close(run(mlp, x)[0][decided], stock(block, x)[decided])


def test_ties_go_to_the_lowest_experts(x, block):
    with torch.no_grad():
        block.gate.weight.zero_()
    mlp, _ = routed_of(block)
    with torch.inference_mode():
        wanted = sum(e(x) for e in block.experts[:TOP]) / TOP
    close(run(mlp, x)[0], wanted)


def doubled(module):
    module.register_forward_hook(lambda m, given, out: out * 2)


@pytest.mark.parametrize(
    "block, place",
    [
        (False, "gate"),
        (False, "experts.2"),
        (False, "experts.2.up_proj"),
        (True, "experts.1.down_proj"),
        (True, "shared_experts"),
        (True, "shared_experts.up_proj"),
    ],
    indirect=["block"],
)
@pytest.mark.parametrize("copies", [False, True])
def test_hooks_are_called(x, block, place, copies):
    grouped = isinstance(block.gate, Gate)
    mlp, _ = routed_of(block, grouped)
    before = stock(block, x)
    doubled(block.get_submodule(place))
    wanted = stock(block, x)
    assert (wanted - before).abs().max() > 1e-2
    assert mlp.whole_module() is None
    close(run(mlp, x, copies)[0], wanted)


@pytest.mark.parametrize(
    "block, place", [(False, ""), (True, ""), (True, "gate")], indirect=["block"]
)
def test_what_the_parts_cannot_honour_calls_the_whole_block(x, block, place):
    mlp, _ = routed_of(block, isinstance(block.gate, Gate))

    def change(module, given, out):
        first = out[0] * 2 if out[0].is_floating_point() else (out[0] + 1) % EXPERTS
        return first, *out[1:]

    before = stock(block, x)
    block.get_submodule(place).register_forward_hook(change)
    wanted = stock(block, x)
    assert (wanted - before).abs().max() > 1e-2
    assert mlp.whole_module() is block and mlp.called() == []
    close(run(mlp, x, copies=True)[0], wanted)


def test_another_block_in_its_place_is_called(x, block):
    mlp, tree = routed_of(block)
    tree["mlp"] = Doubled(MLP())
    close(run(mlp, x)[0], stock(tree["mlp"], x))


def test_changed_and_moved_weights_are_followed(x, block):
    pack(block)
    mlp, _ = routed_of(block)
    view = View(mlp, copies=False)
    with torch.no_grad():
        block.experts[2].up_proj.weight.neg_()
        close(mlp(view, x), stock(block, x))
        block.experts[1].down_proj.weight = nn.Parameter(torch.randn(WIDTH, FFN))
    view.fused.refresh()
    assert len(view.fused.tensors()) == 1  # the outer weights lie apart now
    with torch.inference_mode():
        close(mlp(view, x), stock(block, x))


def test_it_lists_what_it_calls(block):
    mlp, _ = routed_of(block)
    assert mlp.called() == [block.gate] + [
        m for e in block.experts for m in (e.gate_proj, e.up_proj, e.down_proj)
    ]
    assert [kind for kind, _, called in mlp.groups() if called] == ["experts", "experts"]
    assert isinstance(mlp, RoutedMLP) and mlp.inner_width() == TOP * (FFN + WIDTH)


@pytest.mark.parametrize("grouped", [False, True])
def test_why_a_pass_waits_for_the_device(monkeypatch, grouped):
    monkeypatch.setattr(ops, "has_kernel", lambda name, device: name != missing)
    mlp, _ = routed_of(Block(grouped), grouped)
    view = View(mlp, copies=False)
    view.device, view.dtype = torch.device("cpu"), torch.float32
    missing = "combine"
    assert mlp.obstacle(view) == "combine has no cpu kernel"
    missing = None
    assert "'mlp' lie apart" in mlp.obstacle(view)
    view.fused = View(mlp, copies=True).fused
    assert mlp.obstacle(view) is None
    view.device, view.dtype = torch.device("cuda"), torch.float16
    assert "torch.float16" in mlp.obstacle(view)
    assert dense(nn.ModuleDict({"mlp": MLP()}), "mlp").obstacle(view) is None


def test_tensors_that_are_read_without_a_call():
    block = Block(True)
    mlp, _ = routed_of(block, True)
    weight, bias = mlp.tensors()
    assert weight is block.gate.weight and bias is block.gate.expert_bias
    assert block.gate not in mlp.called()
    assert routed_of(Block(False))[0].tensors() == []


def test_dense_blocks_have_no_experts():
    mlp = dense(nn.ModuleDict({"mlp": MLP()}), "mlp")
    assert fused_projections.of_layers([SimpleNamespace(groups=mlp.groups)], False) is None
