"""95 % intervals of accuracies and of their differences."""

import math
from collections.abc import Sequence

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): low and high, both 0 to 1."""
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"right = {right}, n = {n}: expected 0 <= right <= n and n >= 1")
    p, z2 = right / n, Z * Z / n
    middle, half = p + z2 / 2, Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[float, float, float]:
    """Difference of two proportions over the same problems, and its interval.

    Agresti and Min's adjusted Wald interval (Statistics in Medicine 24, 2005): half a problem is
    added to each of the four cells, so that a difference of 0 has an interval too.

    Args:
        ours, theirs: sequences of bool, same length.

    Returns:
        difference, low, high, each -1 to 1.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"{len(ours)} and {len(theirs)} results: expected pairs")
    gained = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    n, b, c = len(ours) + 2, gained + 0.5, lost + 0.5
    middle = (b - c) / n
    half = Z * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return (gained - lost) / len(ours), max(-1.0, middle - half), min(1.0, middle + half)
