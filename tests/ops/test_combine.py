"""combine: its roundings bit for bit, any order of pairs, and a whole routed MLP."""

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


# full_precision, round_weights
ROUNDINGS = ((True, True), (False, False), (False, True))


def combine_case(seed, dtype, rows, top_k, width, rounding=(True, True)):
    g = generator(seed)
    return {
        "y": torch.randn(rows * top_k, width, generator=g).to(dtype),
        "order": torch.randperm(rows * top_k, generator=g),
        "weight": torch.rand(rows, top_k, generator=g),
        "full_precision": rounding[0],
        "round_weights": rounding[1],
    }


def check(args):
    """Every product and sum has one rounding: nothing is left to chance."""
    assert_same_bits(call("combine", args), twin("combine", args))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_shapes(isa, dtype, rounding):
    for width in WIDTHS:
        check(combine_case(width, dtype, 3, 8, width, rounding))
    for rows, top_k, width in ((0, 4, 9), (1, 1, 24), (5, 3, 0), (4, 0, 9), (40, 2, 3000)):
        check(combine_case(0, dtype, rows, top_k, width, rounding))


@given(st.data())
def test_random_orders(isa, data):
    args = combine_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.integers(0, 30)),
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(0, 70)),
        data.draw(st.sampled_from(ROUNDINGS)),
    )
    gap = data.draw(st.integers(0, 3))
    turned = data.draw(st.sampled_from(((0, 1), (1, 0))))
    guarded = Guarded()
    check(guarded.put_all(args, y=(turned, gap), weight=(turned, gap), order=((0,), gap)))
    guarded.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(isa, dtype):
    """Infinities, NaN and signed zeros stay in their row and column."""
    for rounding in ROUNDINGS:
        args = combine_case(1, dtype, 5, 2, 19, rounding)
        args["y"][3, 4], args["y"][7, 2], args["y"][1] = float("nan"), float("inf"), -0.0
        args["weight"][2, 1] = float("inf")
        out, expected = call("combine", args), twin("combine", args)
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


def loop_over_experts(x, expert, weight, function, experts, round_weights):
    """As the published modules do: expert by expert, added into the rows in the dtype."""
    out = torch.zeros_like(x)
    weight = weight.to(x.dtype) if round_weights else weight
    for e in range(experts):
        row, k = torch.where(expert == e)
        if len(row):
            y = function(e, x[row]) * weight[row, k, None]
            out.index_add_(0, row, y.to(x.dtype))
    return out


@pytest.mark.parametrize("round_weights", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loop_over_experts_bit_for_bit(isa, dtype, round_weights):
    """The sum of the models that loop, whatever the experts do (here nothing that rounds)."""
    g = generator(5)
    x = torch.randn(23, 40, generator=g).to(dtype)
    expert, weight, order, _ = ops.route(torch.randn(23, 12, generator=g), None, 4)
    function = lambda e, rows: rows * 2.0 ** (e % 5)  # noqa: E731
    expected = loop_over_experts(x, expert, weight, function, 12, round_weights)
    of_pair = expert.flatten()[order]
    y = x[order // 4] * (2.0 ** (of_pair % 5)).to(dtype)[:, None]
    args = {"y": y, "order": order, "weight": weight, "full_precision": False}
    args["round_weights"] = round_weights
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
    for rounding in ROUNDINGS:
        out = ops.combine(y, order, weight, *rounding)
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
