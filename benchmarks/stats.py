"""Intervals of the benchmarks: all at 95 %."""

import numpy as np

from dpad.tuning.intervals import paired_difference, wilson

__all__ = ["paired_difference", "ratio", "wilson"]


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
