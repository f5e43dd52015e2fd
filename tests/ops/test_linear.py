"""linear: parity at every remainder of rows, depth and width; rows that depend on nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import Guarded, assert_same_bits, assert_twice, call, generator, threads, twin

# A panel is 128 rows by 240 features by 256 elements of the sum, in pieces of 8 to 32 rows and of
# 4 to 8 features.
ROWS = (1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 17, 24, 25, 31, 32, 33, 41, 64, 97, 127, 128, 129, 130)
DEPTHS = (1, 2, 7, 15, 16, 17, 33, 255, 256, 257, 511, 512, 515)
WIDTHS = (1, 3, 5, 6, 7, 8, 9, 15, 16, 17, 47, 48, 49, 239, 240, 241, 247, 485)


def linear_case(seed, rows, depth, width, bias=True):
    g = generator(seed)
    return {
        "x": torch.randn(rows, depth, generator=g),
        "weight": torch.randn(width, depth, generator=g),
        "bias": torch.randn(width, generator=g) if bias else None,
    }


def check(args):
    out = call("linear", args)
    assert out.is_contiguous()
    exact = twin("linear", {k: v if v is None else v.double() for k, v in args.items()})
    assert_twice(out, twin("linear", args), exact)


@pytest.mark.parametrize("bias", [False, True])
def test_awkward_shapes(isa, bias):
    for rows in ROWS:
        check(linear_case(rows, rows, 37, 50, bias))
    for depth in DEPTHS:
        check(linear_case(depth, 21, depth, 50, bias))
    for width in WIDTHS:
        check(linear_case(width, 21, 37, width, bias))
    for empty in ((0, 37, 50), (5, 0, 50), (5, 37, 0), (0, 0, 0)):
        check(linear_case(0, *empty, bias))


def test_long_sums(isa):
    """As long as the widest layers of the released models."""
    check(linear_case(0, 33, 18944, 51))
    check(linear_case(0, 2, 4096, 300))


@given(st.data())
def test_random_shapes_and_strides(isa, data):
    args = linear_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.integers(0, 140)),
        data.draw(st.integers(0, 300)),
        data.draw(st.integers(0, 300)),
        data.draw(st.booleans()),
    )
    layouts = {
        name: (data.draw(st.sampled_from(((0, 1), (1, 0)))), data.draw(st.integers(0, 3)))
        for name in ("x", "weight")
    }
    guarded = Guarded()
    check(guarded.put_all(args, bias=(None, data.draw(st.integers(0, 2))), **layouts))
    guarded.check()


def test_views(isa):
    """Overlapping, repeated and strided rows; every second element of the bias."""
    args = linear_case(1, 40, 64, 30)
    windows = args["x"].flatten().as_strided((40, 64), (3, 1))
    check({**args, "x": windows})
    check({**args, "x": args["x"][:1].expand(40, 64)})
    check({**args, "x": args["x"][::3], "weight": args["weight"][::2], "bias": args["bias"][::2]})


def test_special_values_stay_in_their_row_and_feature(isa):
    args = linear_case(2, 35, 300, 260)
    expected = call("linear", args)
    args["x"][34, 299] = float("nan")
    args["x"][3, 0] = float("inf")
    args["weight"][259, 1] = float("nan")
    out = call("linear", args)
    assert out[34].isnan().all() and out[:, 259].isnan().all()
    assert out[3, :259].isinf().all()
    ordinary = torch.ones(35, dtype=torch.bool)
    ordinary[[3, 34]] = False
    assert_same_bits(out[ordinary, :259], expected[ordinary, :259])


def test_a_row_depends_on_nothing_else(isa):
    """Any number of rows before and after it, any number of threads, any part of the weight."""
    args = linear_case(3, 130, 600, 500)
    with threads(1):
        all_rows = call("linear", args)
    for first in range(0, 130, 7):
        for count in (1, 2, 5, 17, 33):
            some = {**args, "x": args["x"][first : first + count]}
            assert_same_bits(call("linear", some), all_rows[first : first + count])
    for count in (2, 3):
        with threads(count):
            assert_same_bits(call("linear", args), all_rows)
    part = {**args, "weight": args["weight"][333:], "bias": args["bias"][333:]}
    assert_same_bits(call("linear", part), all_rows[:, 333:])


def test_no_bias_is_a_bias_of_zeros(isa):
    args = linear_case(4, 18, 70, 90, bias=False)
    zeros = {**args, "bias": torch.zeros(90)}
    assert torch.equal(call("linear", args), call("linear", zeros))
