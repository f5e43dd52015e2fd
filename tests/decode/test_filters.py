"""Nucleus and top-k filters against brute force."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpad.decode import filters

LOGITS = st.lists(
    st.integers(-128, 128).map(lambda n: n / 16), min_size=2, max_size=12, unique=True
)


def filter_logits(logits, temperature, top_p=None, top_k=None, suppress=None):
    """The same limits for every row; a temperature of 0 leaves the logits as they are."""
    column = lambda x, dtype: None if x is None else torch.full((len(logits), 1), x, dtype=dtype)  # noqa: E731
    scale, top_p = (column(x, torch.float64) for x in (temperature or 1.0, top_p))
    return filters.filter_logits(logits, scale, top_p, column(top_k, torch.int64), suppress)


def kept(row, temperature, top_p, top_k):
    """Ids that stay, by the definitions: the nucleus first, the k best of it then."""
    scaled = torch.tensor(row, dtype=torch.float64) / (temperature or 1.0)
    p = torch.softmax(scaled, 0)
    order = sorted(range(len(row)), key=lambda i: -row[i])
    ids, mass = [], 0.0
    for i in order:
        if top_p is not None and top_p < 1 and mass > top_p:
            break
        ids.append(i)
        mass += float(p[i])
    return set(ids[:top_k])


@given(LOGITS, st.sampled_from((0.0, 0.3, 1.0, 2.0)), st.sampled_from((None, 0.05, 0.5, 0.93, 1.0)),
       st.sampled_from((None, 1, 2, 5, 50)))  # fmt: skip
def test_filters_keep_nucleus_and_best(row, temperature, top_p, top_k):
    out = filter_logits(torch.tensor([row]), temperature, top_p, top_k)[0]
    wanted = kept(row, temperature, top_p, top_k)
    found = {i for i, x in enumerate(out.tolist()) if x > float("-inf")}
    if top_p is not None and top_p < 1:  # the sum may round to either side of top_p
        p = torch.softmax(torch.tensor(row, dtype=torch.float64) / (temperature or 1.0), 0)
        mass = p.sort(descending=True).values.cumsum(0)
        if (mass - top_p).abs().min() < 1e-5:
            return
    assert found == wanted
    for i in wanted:
        assert out[i] == torch.tensor(row)[i] / (temperature or 1.0)


def test_ties_with_the_kth_stay():
    out = filter_logits(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 0.0, None, 1)
    assert (out > float("-inf")).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("limits", [(0.1, None), (None, 1), (0.1, 1)])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_an_allowed_id_always_stays(limits, temperature):
    """Where the filters leave only ids that are never chosen, the best other one comes back."""
    logits = torch.tensor([[0.0, 9.0, 2.0, 1.0], [5.0, 1.0, 2.0, 1.0]])
    out = filter_logits(logits, temperature, *limits, suppress=torch.tensor([1]))
    scale = temperature or 1.0
    assert (out > float("-inf")).tolist() == [[False, True, True, False], [True] + [False] * 3]
    assert out[0, 2] == 2.0 / scale and out[1, 0] == 5.0 / scale


def test_half_precision_is_filtered_in_float32():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = filter_logits(logits, 0.7, 0.9, 20)
    assert out.dtype == torch.float32
    assert torch.equal(out, filter_logits(logits.float(), 0.7, 0.9, 20))
    assert torch.equal(filter_logits(logits, 0.0), logits.float())


def test_every_row_has_its_own_limits():
    logits = torch.randn(4, 40, generator=torch.Generator().manual_seed(1))
    limits = [(1.0, 0.7, 5), (0.5, 1.0, 1), (2.0, 0.2, 40), (1.0, 1.0, 99)]
    scale, top_p, top_k = (torch.tensor(column)[:, None] for column in zip(*limits, strict=True))
    out = filters.filter_logits(logits, scale, top_p, top_k, most_k=128)
    for row, one in enumerate(limits):
        assert torch.equal(out[row : row + 1], filter_logits(logits[row : row + 1], *one))
