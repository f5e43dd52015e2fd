"""suffix_sample: the same sets as the twin, keyed draws, frequencies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import Guarded, assert_same_bits, call, chi_square_limit, generator, twin
from suffix_tables import ALWAYS, TABLES, table_args


def draw_args(batch=1, left=64, seed=0, keep_last=False, **table):
    """Sequences 0..batch-1, all with `left` suffix positions behind position 100."""
    zeros = torch.zeros(batch, dtype=torch.int64)
    return {
        "seed": zeros + seed,
        "row_key": torch.arange(batch),
        "block": zeros,
        "redraw": zeros,
        "end": zeros + 100,
        "total": zeros + 100 + left,
        **table_args(**table),
        "keep_last": keep_last,
        "length": left,
    }


def kept_matrix(args):
    """bool [batch, length]: which distances were kept; checks the layout of the result."""
    kept, count = call("suffix_sample", args)
    batch, length = kept.shape
    out = torch.zeros(batch, length, dtype=torch.bool)
    for b, n in enumerate(count.tolist()):
        row = kept[b, :n]
        assert (row.diff() > 0).all() and (kept[b, n:] == -1).all()
        assert ((row >= args["end"][b]) & (row < args["total"][b])).all()
        out[b, row - args["end"][b]] = True
    return out


@given(st.data(), TABLES)
def test_draws_equal_the_twin(data, table):
    batch = data.draw(st.integers(0, 4))
    g = generator(data.draw(st.integers(0, 10**6)))
    far = lambda: torch.randint(-(2**62), 2**62, (batch,), generator=g)  # noqa: E731
    end = torch.randint(0, 300, (batch,), generator=g)
    length = data.draw(st.integers(0, 120))
    args = {
        "seed": far(),
        "row_key": far(),
        "block": torch.randint(0, 2**31, (batch,), generator=g),
        "redraw": torch.randint(0, 2**31, (batch,), generator=g),
        "end": end,
        "total": end + torch.randint(0, length + 1, (batch,), generator=g),
        **table,
        "keep_last": data.draw(st.booleans()),
        "length": length,
    }
    guarded = Guarded()
    placed = guarded.put_all(args, row_key=(None, 3), end=(None, 1))
    assert_same_bits(call("suffix_sample", placed), twin("suffix_sample", args))
    guarded.check()


def test_kinds_that_draw_nothing():
    assert not kept_matrix(draw_args(kind="none")).any()
    assert kept_matrix(draw_args(kind="all")).all()
    window = kept_matrix(draw_args(kind="window", window=10))
    assert window[0, :10].all() and not window[0, 10:].any()


def test_near_and_last_are_always_kept():
    kept = kept_matrix(draw_args(50, kind="none", near=3, keep_last=True))
    assert kept[:, [0, 1, 2, 63]].all() and kept.sum() == 50 * 4
    assert kept_matrix(draw_args(left=2, kind="none", near=3)).all()
    assert kept_matrix(draw_args(left=0, kind="all", keep_last=True)).shape == (1, 0)


def test_uniform_keeps_exactly_its_count():
    kept = kept_matrix(draw_args(200, kind="uniform", window=40, count=15.0))
    assert (kept.sum(1) == 15).all() and not kept[:, 40:].any()
    # The release's rule: a count that covers what is left bypasses the window.
    assert kept_matrix(draw_args(kind="uniform", window=4, count=64.0)).all()
    assert kept_matrix(draw_args(kind="uniform", window=4, count=63.0)).sum() == 4


@pytest.mark.parametrize("by", ["row_key", "block", "redraw", "seed"])
def test_frequencies_are_the_table(by):
    """4000 draws over row keys, blocks, redraws or seeds keep each distance as often as wanted."""
    draws, left = 4000, 64
    args = draw_args(draws)
    keys = args["row_key"].clone()
    args["row_key"] = torch.zeros_like(keys)
    kept = kept_matrix({**args, by: keys})
    p = call("suffix_table", {**table_args(), "length": left}).double() / ALWAYS
    deviation = (kept.double().mean(0) - p) / (p * (1 - p) / draws).sqrt()
    assert float((deviation**2).sum()) < chi_square_limit(left)
    assert deviation.abs().max() < 4.5
    # Distances are drawn independently: the variance of the count is the sum of p (1 - p).
    variance = float((p * (1 - p)).sum())
    assert abs(kept.sum(1).double().var() / variance - 1) < 0.12


def test_uniform_frequencies():
    draws = 4000
    kept = kept_matrix(draw_args(draws, kind="uniform", window=40, count=10.0))[:, :40]
    # Without replacement the counts vary less, by 1 - 10/40.
    statistic = ((kept.double().sum(0) - draws / 4) ** 2 / (draws / 4 * 0.75)).sum()
    assert float(statistic) < chi_square_limit(39)


def test_a_draw_depends_on_its_keys_alone():
    """Alone, in any batch, with any other suffix length behind it: the same kept distances."""
    args = draw_args(20)
    whole = kept_matrix(args)
    alone = {k: v[7:8] if isinstance(v, torch.Tensor) else v for k, v in args.items()}
    assert_same_bits(kept_matrix(alone)[0], whole[7])
    shorter = {**alone, "end": alone["end"] + 90, "total": alone["end"] + 90 + 30, "length": 50}
    assert_same_bits(kept_matrix(shorter)[0, :30], whole[7, :30])
    for key, other in (("row_key", 3), ("block", 1), ("redraw", 1)):
        assert not torch.equal(kept_matrix({**alone, key: torch.tensor([other])})[0], whole[7])
    other = {**alone, "seed": alone["seed"] + 1}
    assert not torch.equal(kept_matrix(other)[0], whole[7])
