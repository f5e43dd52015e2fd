"""swiglu: silu rounded before the product, special values, rows apart."""

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

WIDTHS = (1, 2, 7, 8, 15, 16, 17, 33, 2047, 2048, 2049, 4100)  # work items have 2048 columns


def swiglu_case(seed, dtype, rows, width, scale=3.0):
    g = generator(seed)
    return {k: (scale * torch.randn(rows, width, generator=g)).to(dtype) for k in ("gate", "up")}


def assert_rounding_points(out, gate, up):
    """silu is rounded to the dtype, then the product: either rounding of a near tie will do.

    Below 1e-36 exp(-gate) overflows in float32, in torch too.
    """
    silu = gate.double() * torch.sigmoid(gate.double())
    sides = [(silu * (1 + e)).to(out.dtype) * up for e in (-4e-7, 4e-7)]
    tiny = (silu.abs() < 1e-36) & (out.abs() < 1e-36)
    assert ((out == sides[0]) | (out == sides[1]) | tiny).all()


def check(args):
    out = call("swiglu", args)
    gate, up = args["gate"].double(), args["up"].double()
    assert_twice(out, twin("swiglu", args), gate * torch.sigmoid(gate) * up)
    if out.dtype != torch.float32:
        assert_rounding_points(out, args["gate"], args["up"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_widths(isa, dtype):
    for width in WIDTHS:
        check(swiglu_case(width, dtype, 3, width))
    check(swiglu_case(0, dtype, 1, 24))
    check(swiglu_case(0, dtype, 0, 24))
    check(swiglu_case(0, dtype, 4, 0))


@given(st.data())
def test_random_rows(isa, data):
    args = swiglu_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.integers(0, 40)),
        data.draw(st.integers(0, 300)),
        data.draw(st.sampled_from((1e-3, 1.0, 10.0))),
    )
    gap = data.draw(st.integers(0, 3))
    turned = data.draw(st.sampled_from(((0, 1), (1, 0))))
    guarded = Guarded()
    check(guarded.put_all(args, gate=((0, 1), gap), up=(turned, gap)))
    guarded.check()


def test_halves_of_one_product(isa):
    """gate and up as the two halves of one Linear's output."""
    both = torch.randn(6, 2 * 37, generator=generator(1))
    check(dict(zip(("gate", "up"), both.chunk(2, -1), strict=True)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(isa, dtype):
    """Infinities, NaN, signed zeros, and gates whose exponential over- or underflows."""
    inf, nan = float("inf"), float("nan")
    gates = [0.0, -0.0, inf, -inf, nan, 1e-7, -1e-7, -20, -87, -88.5, -90, -104, -1e4, 88, 1e4]
    gate = torch.tensor([gates], dtype=torch.float32).to(dtype)
    up = torch.ones_like(gate)
    args = {"gate": gate, "up": up}
    out, expected = call("swiglu", args), twin("swiglu", args)
    torch.testing.assert_close(out, expected, rtol=2e-6, atol=1e-37, equal_nan=True)
    finite = ~expected.isnan()
    assert torch.equal(out.signbit()[finite], expected.signbit()[finite])


def test_every_half_precision_gate(isa):
    """All finite bfloat16 and float16 gates."""
    for dtype in DTYPES[1:]:
        gate = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        gate = gate[gate.isfinite()][None]
        up = torch.full_like(gate, 0.75)
        assert_rounding_points(call("swiglu", {"gate": gate, "up": up}), gate, up)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_depends_on_nothing_else(isa, dtype):
    args = swiglu_case(2, dtype, 30, 2100)
    alone = [call("swiglu", {k: v[i : i + 1] for k, v in args.items()}) for i in range(30)]
    with threads(1):
        one = call("swiglu", args)
    with threads(2):
        assert_same_bits(call("swiglu", args), one)
    assert_same_bits(torch.cat(alone), one)
