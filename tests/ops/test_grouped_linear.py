"""grouped_linear: every expert's rows as `linear` computes them; torch's grouped product."""

import itertools

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

from dpad import ops


def grouped_case(seed, dtype, counts, in_features, out_features):
    g = generator(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    return {
        "x": draw(sum(counts), in_features),
        "weight": draw(len(counts), out_features, in_features),
        "offsets": torch.tensor(counts, dtype=torch.int32).cumsum(0, dtype=torch.int32),
    }


def check(args):
    out, end = call("grouped_linear", args), [0, *args["offsets"].tolist()]
    parts = [slice(*pair) for pair in itertools.pairwise(end)]
    products = [ops.linear(args["x"][p], w) for p, w in zip(parts, args["weight"], strict=True)]
    assert_same_bits(out, torch.cat(products) if products else out[:0])
    truth = [
        args["x"][p].double() @ w.double().T for p, w in zip(parts, args["weight"], strict=True)
    ]
    assert_twice(out, twin("grouped_linear", args), torch.cat(truth))


@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_shapes(isa, dtype):
    for counts in ((3,), (0, 5, 0), (1, 0, 33, 2), (130, 1), (0, 0)):
        for sizes in ((16, 8), (33, 47), (40, 97), (1, 1)):
            check(grouped_case(1, dtype, counts, *sizes))


@given(st.data())
def test_random_groups(isa, data):
    args = grouped_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=7)),
        data.draw(st.integers(1, 70)),
        data.draw(st.integers(1, 70)),
    )
    gap = data.draw(st.integers(0, 3))
    guarded = Guarded()
    layouts = {"x": ((0, 1), gap), "weight": ((0, 1, 2), gap), "offsets": ((0,), gap)}
    check(guarded.put_all(args, **layouts))
    guarded.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_nothing(isa, dtype):
    args = grouped_case(2, dtype, (9, 0, 40, 1, 7), 300, 250)
    with threads(1):
        one = call("grouped_linear", args)
    with threads(2):
        assert_same_bits(call("grouped_linear", args), one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_torch_takes_on_the_cpu(dtype):
    """Rows that start at multiples of 16 bytes, in any dtype; else the twin goes by expert."""
    args = grouped_case(3, dtype, (2, 0, 3), 16, 5)
    x, weight, offsets = args.values()
    out = torch.nn.functional.grouped_mm(x, weight.transpose(1, 2), offs=offsets)
    assert_same_bits(twin("grouped_linear", args), out)
    odd = grouped_case(3, dtype, (2, 0, 3), 15, 5)
    with pytest.raises(RuntimeError, match="multiple of 16 bytes"):
        torch.nn.functional.grouped_mm(odd["x"], odd["weight"].transpose(1, 2), offs=offsets)
    check(odd)
