"""Intervals of the benchmarks against published values and simulation."""

import numpy as np
import pytest

from benchmarks.stats import mean_difference, paired_difference, ratio, wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ),
)
def test_wilson_of_published_examples(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_mean_difference_of_pairs():
    # Differences 1, 2, 3, 6: mean 3, deviation sqrt(14 / 3), 1.96 of it over sqrt(4).
    mean, low, high = mean_difference([2, 4, 6, 10], [1, 2, 3, 4])
    half = 1.96 * (14 / 3) ** 0.5 / 2
    assert (mean, low, high) == pytest.approx((3, 3 - half, 3 + half))
    assert mean_difference([5, 7], [4, 6]) == (1, 1, 1)
    with pytest.raises(ValueError, match="1 pairs"):
        mean_difference([1], [2])


def test_wilson_is_symmetric_and_refuses_nonsense():
    low, high = wilson(3, 40)
    assert wilson(37, 40) == pytest.approx((1 - high, 1 - low))
    for right, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match=f"right = {right}"):
            wilson(right, n)


def test_paired_difference_counts_discordant_pairs_only():
    ours = [True] * 90 + [True] * 6 + [False] * 2 + [False] * 2
    theirs = [True] * 90 + [False] * 6 + [True] * 2 + [False] * 2
    difference, low, high = paired_difference(ours, theirs)
    assert difference == pytest.approx(0.04)
    # b = 6.5, c = 2.5, n = 102: 4/102 +- 1.96 sqrt(9 - 16/102) / 102
    assert (low, high) == pytest.approx((0.039216 - 0.057138, 0.039216 + 0.057138), abs=1e-5)
    swapped = paired_difference(theirs, ours)
    assert swapped == pytest.approx((-difference, -high, -low))


def test_paired_difference_of_equal_arms_still_has_a_width():
    difference, low, high = paired_difference([True] * 50, [True] * 50)
    assert difference == 0
    assert 0 < high == -low < 0.05
    with pytest.raises(ValueError, match="1 and 2"):
        paired_difference([True], [True, False])


def test_paired_difference_covers_what_it_claims():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):
        kind = rng.choice(4, size=150, p=(0.8, 0.1, 0.05, 0.05))
        ours, theirs = np.isin(kind, (0, 1)), np.isin(kind, (0, 2))
        _, low, high = paired_difference(ours.tolist(), theirs.tolist())
        hits += low <= 0.05 <= high
    assert 0.92 <= hits / 400 <= 0.985


def test_ratio_is_of_sums_and_keeps_pairs_together():
    ours = [1.0, 2.0, 4.0, 1.5, 3.0]
    assert ratio([3 * t for t in ours], ours) == pytest.approx((3.0, 3.0, 3.0))
    value, low, high = ratio([2.0, 2.0, 8.0, 3.0, 3.0], ours)
    assert value == pytest.approx(18 / 11.5)
    assert low < value < high
    with pytest.raises(ValueError, match="2 and 1"):
        ratio([1.0, 2.0], [1.0])
