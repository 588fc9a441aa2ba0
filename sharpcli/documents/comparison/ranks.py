"""Kendall's and Pearson's correlation in plain Python, so that `sharp compare` starts fast."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from operator import mul
from typing import Literal

__all__ = ["Correlation", "kendall", "pearson", "score", "smallest_p_value", "tau_b"]

_ENUMERATED_UP_TO = 7  # with ties, 7! = 5040 orders are enumerated
_COUNTED_UP_TO = 100  # without ties; from there the normal approximation is right to 0.003


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b of `n` pairs and its two-sided p-value under independence.

    Both are None if one side is constant. The p-value's `method` is "exact", which counts all
    orders, or "normal", the approximation with the tie-corrected variance.
    """

    tau: float | None
    p_value: float | None
    n: int
    method: Literal["exact", "normal"]


def kendall(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Kendall's tau-b of two sequences of the same length.

    >>> kendall([1, 2, 3, 4], [1, 2, 4, 3]).tau
    0.6666666666666666

    Cost: n·log n comparisons; without ties also of the order of n³ for the p-value up to
        n = 100, beyond which it is the normal approximation.
    Source: Kendall 1945.
    """
    n = len(x)
    ties_x, ties_y = _ties(x), _ties(y)
    tau = tau_b(x, y)
    if tau is None:
        return Correlation(None, None, n, "exact")
    found = score(x, y)
    if not ties_x and not ties_y and n <= _COUNTED_UP_TO:
        return Correlation(tau, _exact(n, found), n, "exact")
    if n <= _ENUMERATED_UP_TO:
        scores = [abs(score(x, order)) for order in permutations(y)]
        return Correlation(tau, sum(s >= abs(found) for s in scores) / len(scores), n, "exact")
    deviation = math.sqrt(_variance(n, ties_x, ties_y))
    return Correlation(tau, math.erfc(abs(found) / deviation / math.sqrt(2)), n, "normal")


def tau_b(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b alone; None if one side is constant."""
    pairs = len(x) * (len(x) - 1) // 2
    untied = (pairs - _pairs(_ties(x))) * (pairs - _pairs(_ties(y)))
    return max(-1.0, min(1.0, score(x, y) / math.sqrt(untied))) if untied else None


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's correlation; None if one side is constant.

    >>> pearson([1, 2, 3], [2, 4, 6])
    1.0
    """
    if len({*x}) < 2 or len({*y}) < 2:
        return None
    a, b = (_standardised(values) for values in (x, y))
    return max(-1.0, min(1.0, math.fsum(map(mul, a, b))))


def _standardised(values: Sequence[float]) -> list[float]:
    """The deviations from the mean, divided by their norm; the largest one first scaled to 1."""
    largest = max(map(abs, values))
    scaled = [value / largest for value in values]
    mean = math.fsum(scaled) / len(scaled)
    deviations = [value - mean for value in scaled]
    norm = math.hypot(*deviations)
    return [value / norm for value in deviations]


def smallest_p_value(n: int) -> float:
    """The smallest two-sided p-value of n pairs without ties: 2/n!."""
    return min(1.0, 2 / math.factorial(min(n, 170)))


def score(x: Sequence[float], y: Sequence[float]) -> int:
    """Concordant minus discordant pairs; a pair that is tied on a side counts 0.

    Goes through the points by rising x and counts the earlier y below and above each.
    """
    total = 0
    seen: list[float] = []
    waiting: list[float] = []
    last = None
    for a, b in sorted(zip(x, y, strict=True)):
        if a != last:
            for value in waiting:
                insort(seen, value)
            waiting, last = [], a
        total += bisect_left(seen, b) - (len(seen) - bisect_right(seen, b))
        waiting.append(b)
    return total


def _exact(n: int, score: int) -> float:
    """P(|S| ≥ |score|) over all n! orders; S is the number of pairs minus twice the inversions."""
    counts = _inversions(n)
    most = (n * (n - 1) // 2 - abs(score)) // 2
    return min(1.0, 2 * sum(counts[: most + 1]) / math.factorial(n))


@lru_cache(maxsize=8)
def _inversions(n: int) -> tuple[int, ...]:
    """The number of the n! orders with 0, 1, 2, … inversions."""
    counts = [1]
    for size in range(2, n + 1):
        counts = list(_times_ones(counts, size))
    return tuple(counts)


def _times_ones(counts: Sequence[int], size: int) -> Iterator[int]:
    """The polynomial `counts` times 1 + q + … + q^(size-1), by a running sum over a window."""
    window = 0
    for index in range(len(counts) + size - 1):
        window += counts[index] if index < len(counts) else 0
        window -= counts[index - size] if index >= size else 0
        yield window


def _ties(values: Sequence[float]) -> list[int]:
    return [count for count in Counter(values).values() if count > 1]


def _pairs(ties: Sequence[int]) -> int:
    return sum(t * (t - 1) // 2 for t in ties)


def _variance(n: int, ties_x: Sequence[int], ties_y: Sequence[int]) -> float:
    """The variance of the score under independence, given the ties (Kendall 1970, chapter 4)."""
    spread = n * (n - 1) * (2 * n + 5) - sum(
        t * (t - 1) * (2 * t + 5) for ties in (ties_x, ties_y) for t in ties
    )
    twos = 4 * _pairs(ties_x) * _pairs(ties_y) / (2 * n * (n - 1))
    threes_x, threes_y = (sum(t * (t - 1) * (t - 2) for t in ties) for ties in (ties_x, ties_y))
    return spread / 18 + twos + threes_x * threes_y / (9 * n * (n - 1) * (n - 2))
