"""The smallest step at which a function of one variable rises above its start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Crossing", "crossing"]

# The width of a bracket that is narrow enough, as a share of its lower end (Kalra et al. 2026).
RELATIVE = 1 / 16
# A guess is approached from this far on either side, so that both sides make a narrow bracket.
_BESIDE = 1 / 45
# How much a step grows, or shrinks, without a guess at first and later, and at most with one.
_FIRST, _BLIND, _MOST = 2.0, 8.0, 100.0
# A slope that noise may have made is no ground for a guess: how many times the noise it must be.
_CLEAR = 4.0
# After so many guesses with the zero on the wrong side the bracket is halved instead.
_WRONG = 2
# Once a guess was wrong a bracket that is wider than this is halved before the next one.
_WIDE = 3.0


@dataclass(frozen=True)
class Crossing:
    """Where f first exceeds zero: f(low) ≤ 0 < f(high).

    Attributes:
        low: 0 if f exceeds zero at every step that was tried.
        high: infinite if it does at none.
        best: the most likely place between them.
        slope: f'(best), from the bracket.
        evaluations: of f.
        fell: whether f was seen below zero by more than its noise.
    """

    low: float
    high: float
    best: float
    slope: float
    evaluations: int
    fell: bool

    @property
    def narrow(self) -> bool:
        """Whether the bracket has the width that was asked for."""
        return self.low > 0 and self.high <= self.low * (1 + RELATIVE)


def crossing(
    rise: Callable[[float], float],
    start: float,
    *,
    noise: float,
    most: int,
    slope: float | None = None,
) -> Crossing:
    """Bracket the smallest step at which `rise` exceeds its noise, to a sixteenth.

    For a quadratic f(η)/η is a straight line, so its zero is guessed from two points and approached
    from both sides. Without a clear guess steps double or halve and then grow or shrink eightfold,
    and where guesses are wrong the bracket is halved on the scale of its logarithm. A fall and rise
    between two steps that were tried is not seen.

    Args:
        rise: f, with f(0) = 0; not finite counts as above.
        start: the first step.
        noise: what rounding may change f by.
        most: evaluations of f.
        slope: f'(0), if it is known.

    Cost: 3 or 4 evaluations for a quadratic with a start within a factor of a hundred.
    """
    tried: dict[float, float] = {}
    step, wrong, below = start, 0, None
    while True:
        tried[step] = rise(step)
        above = not tried[step] <= noise
        wrong += below is not None and below == above
        high = min((at for at, value in tried.items() if not value <= noise), default=math.inf)
        low = max((at for at in tried if at < high), default=0.0)
        guess = _guess(tried, slope, noise)
        fell = any(value < -noise for value in tried.values())
        found = Crossing(low, high, *_best(tried, low, high, guess), len(tried), fell)
        if found.narrow or len(tried) == most:
            return found
        below = None  # whether the next step is below a guess, if it is beside one
        if guess is not None and wrong < _WRONG and not (wrong and high > _WIDE * low):
            near = low >= guess * (1 - RELATIVE / 2)
            wanted = guess * (1 + (_BESIDE if near or high == math.inf else -_BESIDE))
            wanted = min(wanted, _MOST * low) if high == math.inf else wanted
            wanted = max(wanted, high / _MOST) if not low else wanted
            if low < wanted < high:
                step, below = wanted, wanted < guess
                continue
        if low and high < math.inf:
            step = math.sqrt(low * high)
            continue
        grow = _FIRST if len(tried) == 1 else _BLIND
        step = low * grow if low else high / grow


def _guess(tried: dict[float, float], slope: float | None, noise: float) -> float | None:
    """Where f(η)/η is zero by the two points at which it is nearest to zero; None if unclear."""
    points = [(at, value / at, noise / at) for at, value in tried.items() if math.isfinite(value)]
    points += [] if slope is None else [(0.0, slope, 0.0)]
    points.sort(key=lambda point: abs(point[1]))
    if len(points) < 2:
        return None
    (a, at_a, off_a), (b, at_b, off_b) = points[:2]
    if abs(at_a - at_b) <= _CLEAR * (off_a + off_b):
        return None
    zero = a - at_a * (b - a) / (at_b - at_a)
    bent = (at_b - at_a) * (b - a) > 0
    return zero if bent and zero > 0 and math.isfinite(zero) else None


def _best(
    tried: dict[float, float], low: float, high: float, guess: float | None
) -> tuple[float, float]:
    """The place and the slope there, as far as the bracket shows them."""
    if not low or high == math.inf:
        return low or high, math.nan
    best = guess if guess is not None and low <= guess <= high else math.sqrt(low * high)
    return best, (tried[high] - tried[low]) / (high - low)
