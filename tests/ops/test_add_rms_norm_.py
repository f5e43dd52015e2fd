"""add_rms_norm_: the models' rounding points, whatever order the squares are summed in."""

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
    copied,
    generator,
    threads,
    twin,
)

WIDTHS = (1, 2, 7, 8, 15, 16, 17, 33, 64, 100, 257, 4096)


def norm_case(seed, dtype, rows, width, delta=True, scale=1.0):
    g = generator(seed)
    draw = lambda *shape: (scale * torch.randn(*shape, generator=g)).to(dtype)  # noqa: E731
    return {
        "residual": draw(rows, width),
        "delta": draw(rows, width) if delta else None,
        "weight": draw(width),
        "eps": 1e-5,
    }


def assert_rounding_points(out, total, weight, eps):
    """Each row equals weight * round(total * s), bit for bit, for one s near the exact statistic.

    s is the reciprocal root mean square, exact to 3 units in the last place of float32.
    """
    wide = total.float()
    s = (total.double().pow(2).mean(-1, keepdim=True) + eps).rsqrt().float()
    low = s
    for _ in range(3):
        low = torch.nextafter(low, torch.zeros(()))
    found = torch.zeros(out.shape[0], dtype=torch.bool)
    for _ in range(7):
        expected = weight * (wide * low).to(out.dtype)
        found |= (expected == out).all(-1)
        low = torch.nextafter(low, torch.full((), float("inf")))
    assert found.all(), f"rows {(~found).nonzero().flatten().tolist()}"


def check(args):
    before = copied(args)
    plain = copied(args)
    out, expected = call("add_rms_norm_", args), twin("add_rms_norm_", plain)
    total = before["residual"]
    if before["delta"] is not None:
        total = (total.float() + before["delta"].float()).to(total.dtype)
    assert_same_bits(args["residual"], total)
    assert_same_bits(plain["residual"], total)
    assert_rounding_points(out, total, args["weight"], args["eps"])
    x = total.double()
    truth = args["weight"].double() * x * (x.pow(2).mean(-1, keepdim=True) + args["eps"]).rsqrt()
    assert_twice(out, expected, truth)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("delta", [True, False])
def test_awkward_widths(isa, dtype, delta):
    for width in WIDTHS:
        check(norm_case(width, dtype, 3, width, delta))
    check(norm_case(0, dtype, 1, 24, delta))
    check(norm_case(0, dtype, 0, 24, delta))


@given(st.data())
def test_random_rows(isa, data):
    args = norm_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.integers(0, 40)),
        data.draw(st.integers(1, 300)),
        data.draw(st.booleans()),
        data.draw(st.sampled_from((1e-3, 1.0, 30.0))),
    )
    gap = data.draw(st.integers(0, 3))
    turned = data.draw(st.sampled_from(((0, 1), (1, 0))))
    guarded = Guarded()
    placed = guarded.put_all(
        args,
        written=("residual",),
        residual=((0, 1), gap),
        delta=(turned, gap),
        weight=(None, 2),
    )
    check(placed)
    guarded.check()


def test_the_statistic_is_exact(isa):
    """Large equal values and many of them: a naive float32 sum would drift."""
    args = norm_case(0, torch.float32, 2, 100_000, delta=False)
    args["residual"].fill_(3.0)
    args["weight"].fill_(1.0)
    args["eps"] = 0.0
    torch.testing.assert_close(
        call("add_rms_norm_", args), torch.ones(2, 100_000), rtol=2e-7, atol=0
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_eps_and_zero_rows(isa, dtype):
    args = norm_case(0, dtype, 2, 19, delta=False)
    args["residual"][0] = 0
    args["eps"] = 0.5
    out = call("add_rms_norm_", args)
    assert out[0].eq(0).all()
    args["eps"] = 0.0
    assert call("add_rms_norm_", args)[0].isnan().all()  # 0 * (1 / 0), as in the models


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_and_nan_stay_in_their_row(isa, dtype):
    args = norm_case(1, dtype, 4, 21)
    good = call("add_rms_norm_", copied(args))
    args["residual"][1] = args["delta"][1] = torch.finfo(dtype).max
    args["residual"][2, 20] = float("nan")
    plain = copied(args)
    out, expected = call("add_rms_norm_", args), twin("add_rms_norm_", plain)
    assert args["residual"][1].isinf().all()
    assert_same_bits(out[[0, 3]], good[[0, 3]])
    assert out[1:3].isnan().all() and expected[1:3].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_depends_on_nothing_else(isa, dtype):
    args = norm_case(2, dtype, 70, 1030)  # enough work for two threads
    alone = [
        call("add_rms_norm_", {k: v[i : i + 1] if k in ("residual", "delta") else v
                               for k, v in copied(args).items()})
        for i in range(70)
    ]  # fmt: skip
    other = copied(args)
    with threads(1):
        one = call("add_rms_norm_", args)
    with threads(2):
        assert_same_bits(call("add_rms_norm_", other), one)
    assert_same_bits(torch.cat(alone), one)
