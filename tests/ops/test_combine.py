"""combine: both roundings bit for bit, any order of pairs, and a whole routed MLP."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import (
    DTYPES,
    Guarded,
    assert_same_bits,
    assert_twice,
    call,
    generator,
    threads,
    twin,
)
from torch.nn import functional as F

from dpad import ops

WIDTHS = (1, 7, 8, 15, 16, 17, 33, 130)


def combine_case(seed, dtype, rows, top_k, width, full_precision=True):
    g = generator(seed)
    return {
        "y": torch.randn(rows * top_k, width, generator=g).to(dtype),
        "order": torch.randperm(rows * top_k, generator=g),
        "weight": torch.rand(rows, top_k, generator=g),
        "full_precision": full_precision,
    }


def check(args):
    """Every product and sum has one rounding: nothing is left to chance."""
    assert_same_bits(call("combine", args), twin("combine", args))


@pytest.mark.parametrize("full_precision", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_shapes(isa, dtype, full_precision):
    for width in WIDTHS:
        check(combine_case(width, dtype, 3, 8, width, full_precision))
    for rows, top_k, width in ((0, 4, 9), (1, 1, 24), (5, 3, 0), (4, 0, 9), (40, 2, 3000)):
        check(combine_case(0, dtype, rows, top_k, width, full_precision))


@given(st.data())
def test_random_orders(isa, data):
    args = combine_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.integers(0, 30)),
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(0, 70)),
        data.draw(st.booleans()),
    )
    gap = data.draw(st.integers(0, 3))
    turned = data.draw(st.sampled_from(((0, 1), (1, 0))))
    guarded = Guarded()
    check(guarded.put_all(args, y=(turned, gap), weight=(turned, gap), order=((0,), gap)))
    guarded.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(isa, dtype):
    """Infinities, NaN and signed zeros stay in their row and column."""
    for full_precision in (True, False):
        args = combine_case(1, dtype, 5, 2, 19, full_precision)
        args["y"][3, 4], args["y"][7, 2], args["y"][1] = float("nan"), float("inf"), -0.0
        args["weight"][2, 1] = float("inf")
        out, expected = call("combine", args), twin("combine", args)
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


def loop_over_experts(x, expert, weight, function, experts):
    """As the published modules do: expert by expert, added into the rows in the dtype."""
    out = torch.zeros_like(x)
    for e in range(experts):
        row, k = torch.where(expert == e)
        if len(row):
            out.index_add_(0, row, function(e, x[row]) * weight.to(x.dtype)[row, k, None])
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loop_over_experts_bit_for_bit(isa, dtype):
    """The sum of the models that loop, whatever the experts do (here nothing that rounds)."""
    g = generator(5)
    x = torch.randn(23, 40, generator=g).to(dtype)
    expert, weight, order, _ = ops.route(torch.randn(23, 12, generator=g), None, 4)
    expected = loop_over_experts(x, expert, weight, lambda e, rows: rows * 2.0 ** (e % 5), 12)
    of_pair = expert.flatten()[order]
    y = x[order // 4] * (2.0 ** (of_pair % 5)).to(dtype)[:, None]
    args = {"y": y, "order": order, "weight": weight, "full_precision": False}
    assert_same_bits(call("combine", args), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_over_the_experts_of_a_row(isa, dtype):
    """As LLaDA2: products in float32, summed in whatever order torch likes, rounded once."""
    args = combine_case(6, dtype, 23, 8, 40)
    place = args["order"].argsort().view(23, 8)
    terms = args["y"][place].float() * args["weight"][..., None]
    truth = (args["y"][place].double() * args["weight"].double()[..., None]).sum(1)
    size = terms.abs().max().double()
    assert_twice(call("combine", args), terms.sum(1).to(dtype), truth, size)


def test_a_routed_mlp(isa):
    """route, three grouped products and combine against the sum over all pairs in float64."""
    g = generator(7)
    rows, experts, top_k, hidden, width = 21, 10, 3, 24, 16
    draw = lambda *shape: torch.randn(*shape, generator=g) / shape[-1] ** 0.5  # noqa: E731
    x, gate, up, down = (
        draw(rows, hidden),
        *(draw(experts, width, hidden) for _ in range(2)),
        draw(experts, hidden, width),
    )
    logits = torch.randn(rows, experts, generator=g)
    expert, weight, order, offsets = ops.route(logits, None, top_k)
    grouped = x[order // top_k]
    products = (ops.grouped_linear(grouped, w, offsets) for w in (gate, up))
    y = ops.grouped_linear(ops.swiglu(*products), down, offsets)
    wide = x.double()
    expected = torch.zeros_like(wide)
    for row in range(rows):
        for k in range(top_k):
            e = expert[row, k]
            inner = F.silu(gate[e].double() @ wide[row]) * (up[e].double() @ wide[row])
            expected[row] += weight[row, k].double() * (down[e].double() @ inner)
    for full_precision in (True, False):
        out = ops.combine(y, order, weight, full_precision)
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_other_rows_change_nothing(isa, dtype):
    args = combine_case(2, dtype, 64, 8, 700)
    with threads(1):
        one = call("combine", args)
    with threads(2):
        assert_same_bits(call("combine", args), one)
    row = args["order"].argsort()[8 * 17 : 8 * 18]
    alone = {"y": args["y"][row], "order": torch.arange(8), "weight": args["weight"][17:18]}
    assert_same_bits(call("combine", alone), one[17:18])
