"""Intervals of the benchmarks: all at 95 %."""

import numpy as np

from dpad.tuning.intervals import paired_difference, wilson

__all__ = ["mean_difference", "paired_difference", "ratio", "wilson"]


def mean_difference(ours, theirs):
    """Mean of the differences of pairs, low, high: normal, from the spread of the differences."""
    found = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if found.size < 2:
        raise ValueError(f"{found.size} pairs: expected two or more")
    half = 1.96 * found.std(ddof=1) / np.sqrt(found.size)
    return float(found.mean()), float(found.mean() - half), float(found.mean() + half)


def ratio(theirs, ours, resamples=2000):
    """How many times faster: sum(theirs) / sum(ours) over rounds in which both took turns.

    Returns:
        ratio, low, high: percentile bootstrap over the rounds (seeded).
    """
    theirs, ours = np.asarray(theirs, dtype=float), np.asarray(ours, dtype=float)
    if theirs.shape != ours.shape or theirs.size == 0:
        raise ValueError(f"{theirs.size} and {ours.size} rounds: expected pairs")
    drawn = np.random.default_rng(0).integers(theirs.size, size=(resamples, theirs.size))
    samples = theirs[drawn].sum(1) / ours[drawn].sum(1)
    low, high = np.percentile(samples, (2.5, 97.5))
    return float(theirs.sum() / ours.sum()), float(low), float(high)
