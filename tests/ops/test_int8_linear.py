"""int8_linear: the twin's bits at every remainder, on every instruction set, among any rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import DTYPES, Guarded, assert_same_bits, call, generator, threads, twin

from dpad import ops

# A panel is 128 rows by 240 features by 128 words of 2 or 4 elements.
ROWS = (1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 24, 25, 31, 32, 33, 64, 127, 128, 129, 130)
DEPTHS = (1, 2, 3, 4, 5, 7, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1025)
WIDTHS = (1, 3, 5, 7, 8, 9, 15, 16, 17, 47, 48, 49, 239, 240, 241, 247, 485)


def case(seed, rows, depth, width, bias=True, dtype=torch.float32, smoothing=True):
    g = generator(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    return {
        "x": draw(rows, depth),
        "weight": torch.randint(-127, 128, (width, depth), generator=g, dtype=torch.int8),
        "scale": torch.rand(width, generator=g),
        "bias": draw(width) if bias else None,
        "smoothing": torch.rand(depth, generator=g) + 0.5 if smoothing else None,
    }


def check(args):
    out = call("int8_linear", args)
    assert out.is_contiguous()
    assert_same_bits(out, twin("int8_linear", args))


def test_what_it_computes():
    """By the definition, in exact arithmetic; and near the product of what was rounded."""
    args = case(0, 9, 120, 30, smoothing=False)
    largest = args["x"].abs().amax(1, keepdim=True)
    rows = (args["x"] * (127.0 / largest.double()).float()).round()
    assert rows.abs().max() == 127
    weight = args["weight"].double() * args["scale"].double()[:, None]
    exact = (rows.double() * largest / 127) @ weight.T + args["bias"].double()
    torch.testing.assert_close(call("int8_linear", args).double(), exact, rtol=1e-5, atol=1e-4)
    plain = args["x"].double() @ weight.T + args["bias"].double()
    error = (call("int8_linear", args) - plain).norm() / plain.norm()
    assert 1e-4 < error < 0.02  # rounding to 255 levels, no more


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", [False, True])
def test_awkward_shapes(isa, given, dtype):
    for rows in ROWS:
        check(case(rows, rows, 37, 50, given, dtype, given))
    for depth in DEPTHS:
        check(case(depth, 21, depth, 50, given, dtype, given))
    for width in WIDTHS:
        check(case(width, 21, 37, width, given, dtype, given))
    for empty in ((0, 37, 50), (5, 0, 50), (5, 37, 0), (0, 0, 0)):
        check(case(0, *empty, given, dtype, given))


def test_the_largest_sums(isa):
    """All products at their largest, of one sign, at the greatest depth."""
    for sign in (1, -1):
        args = case(1, 33, 65536, 9, smoothing=False)
        args["x"].fill_(2.0)
        args["weight"].fill_(127 * sign)
        check(args)
        sums = (call("int8_linear", args) - args["bias"]) / args["scale"]
        torch.testing.assert_close(sums, torch.full_like(sums, sign * 2.0 * 127 * 65536))


def test_every_byte_of_the_weight(isa):
    """-128 too, which the quantiser never writes."""
    args = case(2, 6, 256, 5)
    args["weight"][:] = torch.arange(-128, 128).to(torch.int8)
    check(args)


@given(st.data())
def test_random_shapes_and_strides(isa, data):
    args = case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.integers(0, 140)),
        data.draw(st.integers(0, 300)),
        data.draw(st.integers(0, 300)),
        data.draw(st.booleans()),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.booleans()),
    )
    layouts = {
        name: (data.draw(st.sampled_from(((0, 1), (1, 0)))), data.draw(st.integers(0, 3)))
        for name in ("x", "weight")
    }
    gaps = {n: (None, data.draw(st.integers(0, 2))) for n in ("bias", "scale", "smoothing")}
    guarded = Guarded()
    check(guarded.put_all(args, **gaps, **layouts))
    guarded.check()


def test_views(isa):
    args = case(1, 40, 64, 30)
    check({**args, "x": args["x"].flatten().as_strided((40, 64), (3, 1))})
    check({**args, "x": args["x"][:1].expand(40, 64)})
    narrow = {name: args[name][::2] for name in ("weight", "scale", "bias")}
    check({**args, "x": args["x"][::3], **narrow})


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_rows(isa, dtype):
    """Not finite: NaN in the whole row and nowhere else. Zeros and next to nothing: the bias."""
    args = case(2, 35, 300, 260, dtype=dtype)
    expected = call("int8_linear", args)
    for row, value in ((34, float("nan")), (3, float("inf")), (4, -float("inf"))):
        args["x"][row, 299] = value
    args["x"][7] = 0
    args["x"][8] = 2.0**-120
    out = call("int8_linear", args)
    assert out[[3, 4, 34]].isnan().all()
    assert torch.equal(out[7], args["bias"]) and torch.equal(out[8], args["bias"])
    ordinary = torch.ones(35, dtype=torch.bool)
    ordinary[[3, 4, 7, 8, 34]] = False
    assert_same_bits(out[ordinary], expected[ordinary])
    torch.testing.assert_close(out, twin("int8_linear", args), rtol=0, atol=0, equal_nan=True)


def test_a_row_depends_on_nothing_else(isa):
    args = case(3, 130, 600, 500)
    with threads(1):
        all_rows = call("int8_linear", args)
    for first in range(0, 130, 17):
        for count in (1, 2, 5, 17, 33):
            some = {**args, "x": args["x"][first : first + count]}
            assert_same_bits(call("int8_linear", some), all_rows[first : first + count])
    for count in (2, 3):
        with threads(count):
            assert_same_bits(call("int8_linear", args), all_rows)


def test_extensions_belong_to_avx512(isa):
    assert ops.cpu_extensions() <= ({"avx512vnni", "avx512bf16"} if isa == "avx512" else set())
