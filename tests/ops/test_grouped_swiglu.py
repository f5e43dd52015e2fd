"""grouped_swiglu: the bits of grouped_linear on gathered rows, then of swiglu."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import DTYPES, Guarded, assert_same_bits, assert_twice, call, threads, twin

from dpad import ops
from dpad.ops import inputs


def case(seed, dtype, counts, rows, in_features, ffn):
    sizes = {"counts": counts, "rows": rows, "in_features": in_features, "ffn": ffn}
    return inputs.make("grouped_swiglu", seed, dtype, **sizes)


def check(args):
    out = call("grouped_swiglu", args)
    x, row, gate, up, offsets = args.values()
    products = [ops.grouped_linear(x[row], weight, offsets) for weight in (gate, up)]
    assert_same_bits(out, ops.swiglu(*products))
    sizes = offsets.diff(prepend=offsets.new_zeros(1)).tolist()
    expert = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    wide = [torch.einsum("pi,poi->po", x[row].double(), w[expert].double()) for w in (gate, up)]
    assert_twice(out, twin("grouped_swiglu", args), torch.nn.functional.silu(wide[0]) * wide[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_shapes(isa, dtype):
    """Rows of several tiles and panels, and of none; widths that no vector divides."""
    for counts in ((3,), (0, 5, 0), (1, 0, 33, 2), (130, 1), (0, 0)):
        for rows, *sizes in ((1, 16, 8), (5, 33, 47), (40, 300, 97), (7, 16, 250), (2, 1, 1)):
            check(case(1, dtype, counts, rows, *sizes))


@given(st.data())
def test_random_groups(isa, data):
    args = case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=7)),
        data.draw(st.integers(1, 30)),
        data.draw(st.integers(1, 70)),
        data.draw(st.integers(1, 70)),
    )
    gap = data.draw(st.integers(0, 3))
    guarded = Guarded()
    layouts = {"x": ((0, 1), gap), "row": ((0,), gap), "offsets": ((0,), gap)}
    layouts |= {name: ((0, 1, 2), data.draw(st.integers(0, 3))) for name in ("gate", "up")}
    check(guarded.put_all(args, **layouts))
    guarded.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_nothing(isa, dtype):
    args = case(2, dtype, (9, 0, 40, 1, 7), 30, 300, 250)
    with threads(1):
        one = call("grouped_swiglu", args)
    with threads(2):
        assert_same_bits(call("grouped_swiglu", args), one)


def test_halves_of_one_weight():
    """As checkpoints with stacked experts have it."""
    args = case(3, torch.float32, (2, 4), 5, 40, 24)
    both = torch.cat((args["gate"], args["up"]), dim=1)
    gate, up = both.chunk(2, dim=1)
    assert_same_bits(
        call("grouped_swiglu", {**args, "gate": gate, "up": up}), call("grouped_swiglu", args)
    )
