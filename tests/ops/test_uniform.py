"""uniform: the draws of random remasking, bitwise the twin's, keyed and flat."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import (
    Guarded,
    assert_same_bits,
    call,
    chi_square_limit,
    generator,
    offsets_of,
    twin,
)

pytestmark = pytest.mark.usefixtures("device")


def uniform_case(seed, counts):
    g = generator(seed)
    far = lambda *shape: torch.randint(-(2**62), 2**62, shape, generator=g)  # noqa: E731
    return {
        "rng": far(len(counts), 3),
        "l_offsets": offsets_of(counts),
        "position": far(sum(counts)),
    }


@given(st.integers(0, 10**6), st.lists(st.integers(0, 9), max_size=4))
def test_random_calls_equal_the_twin(seed, counts):
    args = uniform_case(seed, counts)
    guarded = Guarded()
    placed = guarded.put_all(args, rng=((1, 0), 1), position=(None, 2))
    out = call("uniform", placed)
    assert_same_bits(out, twin("uniform", args))
    assert ((out > 0) & (out < 1)).all()
    guarded.check()


def test_a_draw_depends_on_its_keys_alone():
    args = uniform_case(1, [6, 5])
    whole = call("uniform", args)
    for row in range(11):
        b = int(row >= 6)
        alone = {
            "rng": args["rng"][b : b + 1],
            "l_offsets": offsets_of([1]),
            "position": args["position"][row : row + 1],
        }
        assert_same_bits(call("uniform", alone), whole[row : row + 1])
        for part in range(3):  # seed, row key, forward
            other = {**alone, "rng": alone["rng"].clone()}
            other["rng"][0, part] += 1
            assert call("uniform", other) != whole[row]


def test_draws_are_flat_and_independent():
    """20,000 positions: 16 equal bins, and 8 x 8 bins of neighbours."""
    args = {
        "rng": torch.tensor([[3, 0, 1]]),
        "l_offsets": offsets_of([20_000]),
        "position": torch.arange(20_000),
    }
    out = call("uniform", args)
    eighth = (out * 8).long()
    for cells, size in (((out * 16).long(), 16), (eighth[::2] * 8 + eighth[1::2], 64)):
        expected = len(cells) / size
        count = torch.bincount(cells, minlength=size)
        assert float(((count - expected) ** 2 / expected).sum()) < chi_square_limit(size - 1)
