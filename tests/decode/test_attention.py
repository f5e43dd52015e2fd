"""Attention of a pass: sequences of many rows go to torch's kernel, the others to dpad's."""

import pytest
import torch

import dpad
from dpad.decode import attention
from dpad.decode.attention import Attention
from dpad.decode.layout import Layout
from tests.decode.common import MASK_ID, tiny

HEADS, DIM, CAPACITY = 4, 8, 40


@pytest.fixture
def wide(monkeypatch):
    """On the CPU too, from 16 rows on; the sizes of the queries that torch's kernel gets."""
    seen = []
    stock = torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, **options):
        seen.append((tuple(q.shape), k.shape[2]))
        return stock(q, k, v, **options)

    monkeypatch.setattr(attention, "WIDE_ROWS", 16)
    monkeypatch.setattr(attention, "WIDE_ATTENTION", {"cpu"})
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", watched)
    return seen


def layout_of(sizes):
    rows, kv_start, keys = (torch.tensor(column) for column in zip(*sizes, strict=True))
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), rows.cumsum(0)))
    none = torch.zeros(0, dtype=torch.int64)
    fields = dict.fromkeys(
        ("slot", "position", "logit_row", "l_offsets", "canvas_row", "target", "length"), none
    )
    return Layout(
        q_offsets=offsets,
        n_keys=keys,
        kv_start=kv_start,
        hidden_until=None,
        max_position=0,
        sizes=tuple(sizes),
        **fields,
    )


CASES = {
    "one": ([(16, 2, 17)], [1]),
    "equal neighbours together": ([(20, 1, 30), (20, 2, 30)], [2]),
    "not in order": ([(20, 2, 30), (20, 1, 30)], [1, 1]),
    "at one distance": ([(20, 0, 30), (20, 1.5, 30), (20, 3, 30), (20, 4.5, 30)], [4]),
    "at two distances": ([(20, 0, 30), (20, 1, 30), (20, 3, 30), (20, 5, 30)], [2, 2]),
    "the same keys": ([(20, 1, 30), (20, 1, 30)], [1, 1]),
    "other keys": ([(20, 0, 30), (20, 1, 31)], [1, 1]),
    "mixed": ([(3, 0, 5), (20, 1, 30), (20, 2, 30), (1, 3, 40), (15, 0, 16), (16, 4, 16)], [2, 1]),
    "empty ones between": ([(0, 0, 3), (17, 1, 18), (0, 2, 2)], [1]),
    "none": ([(15, 0, 16), (2, 1, 9)], []),
}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_same_result_wherever_it_is_computed(wide, case, dtype, kv_heads):
    sizes, counts = CASES[case]
    sizes = [(rows, int(row * CAPACITY), keys) for rows, row, keys in sizes]
    layout = layout_of(sizes)
    torch.manual_seed(0)
    q = torch.randn(int(layout.q_offsets[-1]), HEADS, DIM).to(dtype)
    k, v = (torch.randn(kv_heads, 6 * CAPACITY, DIM).to(dtype) for _ in range(2))
    attend = Attention(layout, 0.3, q, kv_heads != HEADS)
    found = attend(q, k, v)
    expected = attend.of_rows(q, k, v, layout.q_offsets)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert found.shape == expected.shape
    assert torch.allclose(found.float(), expected.float(), atol=tolerance)
    if dtype == torch.float32 and kv_heads != HEADS:
        counts = []  # torch has no kernel for it
    assert [shape[0] for shape, _ in wide] == counts


def test_masks_and_unknown_sizes_stay_with_the_operator(wide):
    layout = layout_of([(20, 0, 30)])
    q, k = torch.randn(20, HEADS, DIM), torch.randn(HEADS, CAPACITY, DIM)
    mask = torch.ones(CAPACITY, dtype=torch.bool)
    Attention(layout, 0.3, q, False, mask)(q, k, k)
    layout.sizes = None
    Attention(layout, 0.3, q, False)(q, k, k)
    assert wide == []


def test_generate_and_forward_agree(wide):
    model = tiny(kv_heads=4)
    ids = torch.randint(0, 50, (3, 9))
    options = {"max_new_tokens": 24, "block_length": 8, "cache": "dual", "seed": 0}
    options |= {"suffix": dpad.Suffix("all"), "mask_token_id": MASK_ID, "early_stop": False}
    with dpad.patched(model), torch.no_grad():
        tokens, logits = model.generate(ids, **options), model(ids.repeat(1, 2)).logits
        assert {shape[2] for shape, _ in wide} == {33, 18}  # refreshes and the forward
        assert all(shape[0] == 3 for shape, _ in wide)
        attention.WIDE_ATTENTION.clear()
        assert torch.equal(model.generate(ids, **options), tokens)
        assert torch.allclose(model(ids.repeat(1, 2)).logits, logits, atol=1e-4)
