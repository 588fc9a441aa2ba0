"""Means, medians and quantiles of a few runs, with intervals; in plain Python."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

__all__ = [
    "carriers",
    "deviation",
    "interval_of_mean",
    "interval_of_median",
    "mean",
    "median",
    "quantile",
    "student",
    "student_quantile",
]

CONFIDENCE = 0.95
_MANY = 1000.0  # degrees of freedom, beyond which Student's t is normal to 0.1 %


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation, with n − 1; None of fewer than two values."""
    if len(values) < 2:
        return None
    middle = math.fsum(values) / len(values)
    return math.hypot(*(value - middle for value in values)) / math.sqrt(len(values) - 1)


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean; None of fewer than two values."""
    spread, middle = deviation(values), mean(values)
    if spread is None or middle is None:
        return None
    half = student_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    return middle - half, middle + half


@functools.lru_cache(maxsize=1024)
def student_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| ≤ t) = confidence, for a whole number of degrees of freedom.

    Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4: P is a finite sum in θ = atan(t/√ν).

    >>> round(student_quantile(1), 3), round(student_quantile(2), 3), round(student_quantile(9), 3)
    (12.706, 4.303, 2.262)
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _within(theta: float, degrees: int) -> float:
    """P(|T| ≤ √ν tan θ)."""
    cosine, odd = math.cos(theta), degrees % 2
    total, term = 0.0, cosine if odd else 1.0
    for k in range(1 + odd, degrees, 2):  # powers of the cosine: k − 1
        total += term
        term *= cosine * cosine * k / (k + 1)
    total *= math.sin(theta)
    return 2 / math.pi * (theta + total) if odd else total


def student(degrees: float, confidence: float = CONFIDENCE) -> float:
    """`student_quantile` for any degrees of freedom of at least 1, interpolated in their inverse.

    The interpolation is never too narrow, because the curve is convex.
    """
    degrees = min(max(degrees, 1.0), _MANY)
    low, high = math.floor(degrees), math.ceil(degrees)
    above, below = (student_quantile(each, confidence) for each in (low, high))
    if low == high:
        return above
    return above + (below - above) * (1 / degrees - 1 / low) / (1 / high - 1 / low)


def carriers(second: float, fourth: float, count: int) -> float:
    """How many of `count` examples carry a variance: count/(κ − 1), at most count − 1.

    `second` and `fourth` are Σd² and Σd⁴ of deviations from a mean; κ = count·Σd⁴/(Σd²)² is their
    kurtosis. The variance's relative standard deviation is 1/√carriers, as if it came from that
    many examples alone: m of equal weight among others of zero weight give about m. Without
    variance there are no carriers.
    """
    if not second:
        return 0.0
    square = second * second
    excess = fourth - square / count
    most = max(count - 1.0, 1.0)
    return most if excess <= square / most else max(1.0, square / excess)


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile by linear interpolation, as numpy's default; infinities count."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    below, above = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    return below if below == above or place == low else below + (place - low) * (above - below)


def median(values: Sequence[float]) -> float:
    """The median; infinite where half of the values or more are."""
    return quantile(values, 0.5)


def interval_of_median(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Two order statistics around the median, and the confidence that they have.

    They are the innermost ones with at least 95 %, or else the outermost, whose confidence is
    1 − 2^(1−n). It holds for every continuous distribution. None of fewer than two values.

    >>> interval_of_median([3.0, 1.0, 2.0])
    (1.0, 3.0, 0.75)
    """
    n = len(values)
    if n < 2:
        return None
    ordered, rank, outside = sorted(values), 1, 2.0 ** (1 - n)
    for wider in range(2, (n + 1) // 2 + 1):
        more = 2 * sum(math.comb(n, k) for k in range(wider)) / 2**n
        if more > 1 - CONFIDENCE:
            break
        rank, outside = wider, more
    return ordered[rank - 1], ordered[n - rank], 1 - outside
