"""suffix_gather: tokens by position, bitwise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import Guarded, assert_same_bits, call, generator, offsets_of, twin

pytestmark = pytest.mark.usefixtures("device")


def gather_case(seed, counts, length=23, hidden=True):
    g = generator(seed)
    until = torch.randint(0, length + 2, (len(counts),), generator=g)
    return {
        "canvas": torch.randint(-(2**40), 2**40, (len(counts) + 1, length), generator=g),
        "canvas_row": torch.randperm(len(counts) + 1, generator=g)[: len(counts)],
        "q_offsets": offsets_of(counts),
        "position": torch.randint(0, max(length, 1), (sum(counts),), generator=g),
        "hidden_until": until if hidden else None,
        "mask_id": 77,
    }


def check(args):
    expected = []
    offsets = args["q_offsets"].tolist()
    for b, row in enumerate(args["canvas_row"].tolist()):
        until = 0 if args["hidden_until"] is None else int(args["hidden_until"][b])
        for at in args["position"][offsets[b] : offsets[b + 1]].tolist():
            expected.append(args["mask_id"] if at < until else int(args["canvas"][row, at]))
    expected = torch.tensor(expected, dtype=torch.int64)
    assert_same_bits(call("suffix_gather", args), expected)
    assert_same_bits(twin("suffix_gather", args), expected)


def test_empty_passes():
    check(gather_case(0, []))
    check(gather_case(0, [0, 0]))
    check(gather_case(0, [0], length=0, hidden=False))


@given(st.data())
def test_random_passes(data):
    args = gather_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.lists(st.integers(0, 9), max_size=4)),
        data.draw(st.integers(1, 40)),
        data.draw(st.booleans()),
    )
    order = data.draw(st.sampled_from(((0, 1), (1, 0))))
    guarded = Guarded()
    placed = guarded.put_all(
        args,
        canvas=(order, data.draw(st.integers(0, 3))),
        position=(None, 2),
        hidden_until=(None, 1),
    )
    check(placed)
    guarded.check()


def test_one_sequence_twice():
    """Two cache rows of one canvas: guidance reads it with the prompt hidden."""
    args = {
        "canvas": torch.arange(10)[None],
        "canvas_row": torch.tensor([0, 0]),
        "q_offsets": torch.tensor([0, 4, 8]),
        "position": torch.tensor([0, 1, 2, 9, 0, 1, 2, 9]),
        "hidden_until": torch.tensor([0, 2]),
        "mask_id": 99,
    }
    assert call("suffix_gather", args).tolist() == [0, 1, 2, 9, 99, 99, 2, 9]
