"""The attention part of a layer: stacked and apart, biased or not, with norms of the heads."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dpad.models.parts import Attention, norm, part

WIDTH, HEADS, KV_HEADS, HEAD_DIM = 24, 6, 2, 8
SIZES = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM]
VIEW = SimpleNamespace(
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    products=lambda parts, x: [part(x) for part in parts],
)


class RMSNorm(nn.Module):
    """As the released classes have it: float32, rounded, then times the weight in the dtype."""

    def __init__(self):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.randn(HEAD_DIM)), 1e-6

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * y.to(x.dtype)


def tree(bias=False, normed=True, dtype=torch.float32):
    torch.manual_seed(3)
    modules = {
        "qkv": nn.Linear(WIDTH, sum(SIZES), bias=bias),
        "o": nn.Linear(SIZES[0], WIDTH, bias=False),
    }
    for name, size in zip("qkv", SIZES, strict=True):
        modules[name] = nn.Linear(WIDTH, size, bias=bias)
    if normed:
        modules |= {"q_norm": RMSNorm(), "k_norm": RMSNorm()}
    tree = nn.ModuleDict(modules).to(dtype)
    with torch.no_grad():
        for kind in ("weight", "bias") if bias else ("weight",):
            pieces = getattr(tree["qkv"], kind).split(SIZES)
            for name, piece in zip("qkv", pieces, strict=True):
                getattr(tree[name], kind).copy_(piece)
    return tree


def attention(tree, stacked):
    names = ["qkv"] if stacked else ["q", "k", "v"]
    norms = [n for n in ("q_norm", "k_norm") if n in tree]
    found = {name: part(tree, name) for name in [*names, "o"]}
    return Attention(**found, **{n: norm(tree, n, "variance_epsilon") for n in norms})


def by_hand(tree, x):
    """q, k, v as the released classes make them."""
    q, k, v = (tree[name](x).unflatten(-1, (-1, HEAD_DIM)) for name in "qkv")
    if "q_norm" in tree:
        q, k = tree["q_norm"](q), tree["k_norm"](k)
    return q, k, v


def same(found, wanted):
    """Bit for bit; in float32 but for the order in which a norm adds up its squares."""
    for a, b in zip(found, wanted, strict=True):
        if a.dtype == torch.float32:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        else:
            assert a.equal(b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_apart_is_the_released_order(dtype, bias, normed):
    modules, x = tree(bias, normed, dtype), torch.randn(5, WIDTH).to(dtype)
    with torch.inference_mode():
        found, wanted = attention(modules, stacked=False)(VIEW, x), by_hand(modules, x)
    same(found, wanted)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("hooked", [False, True])
def test_stacked_is_apart(bias, hooked):
    modules, x = tree(bias), torch.randn(5, WIDTH)
    if hooked:
        for name in ("qkv", "q", "k", "v"):
            modules[name].register_forward_hook(lambda module, given, out: out * 2)
    stacked = attention(modules, stacked=True)
    with torch.inference_mode():
        wanted = by_hand(modules, x)
        whole = stacked(VIEW, x)
        pieces = stacked.queries(VIEW, x[:2]), *stacked.keys_values(VIEW, x)
    for a, b, c in zip(whole, pieces, wanted, strict=True):
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(b, c[: b.shape[0]])
    assert [a.shape[1] for a in whole] == [HEADS, KV_HEADS, KV_HEADS]


def test_norms_with_hooks_are_called():
    modules, x = tree(), torch.randn(5, WIDTH)
    modules["k_norm"].register_forward_hook(lambda module, given, out: out + 1)
    part = attention(modules, stacked=False)
    with torch.inference_mode():
        found, wanted = part(VIEW, x), by_hand(modules, x)
    same(found, wanted)
    assert [n.name for n in part.norms()] == ["q_norm", "k_norm"]


def test_what_may_be_one_product():
    modules = tree()
    ((kind, parts, called),) = attention(modules, stacked=False).groups()
    assert kind == "q, k, v" and [p.name for p in parts] == ["q", "k", "v"] and called
    assert attention(modules, stacked=True).groups() == []
