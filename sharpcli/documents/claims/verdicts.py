"""From one number a seed to an interval, and from the interval to a verdict."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sharpcli.documents.scoring.statistics import (
    deviation,
    interval_of_mean,
    mean,
    student,
)

__all__ = ["Direction", "Judged", "Prediction", "judge"]

Direction = Literal["above", "below", "within"]
Verdict = Literal["confirmed", "not confirmed", "reversed", "undecided"]
_MOST_SEEDS = 10_000  # beyond it, no number of seeds is named


@dataclass(frozen=True)
class Prediction:
    """What a claim says of its statistic.

    Attributes:
        direction: the statistic is above or below `null`, or within the range from `low` to `high`.
        null: its value without the effect.
        least: the smallest effect that would support the claim. Where the interval ends before it,
            the claim is not confirmed, even where all of it is on the predicted side.
        low: the lower end of the range.
        high: its upper end.

    Raises:
        ValueError: it is no prediction, because any or no number would fulfil it.
    """

    direction: Direction
    null: float = 0.0
    least: float | None = None
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.direction == "within":
            if not (math.isfinite(self.low) or math.isfinite(self.high)):
                raise ValueError("a range needs low or high, or both")
            if not self.low < self.high:
                raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}")
            if self.null or self.least is not None:
                raise ValueError("a range has low and high, not null and least")
            return
        if self.low > -math.inf or self.high < math.inf:
            raise ValueError('low and high are for direction = "within"')
        if not math.isfinite(self.null):
            raise ValueError("null is not finite")
        if self.least is not None:
            above = self.direction == "above"
            beyond = self.least > self.null if above else self.least < self.null
            if not (beyond and math.isfinite(self.least)):
                raise ValueError(
                    f"least = {self.least:g} is not {self.direction} null = {self.null:g}"
                )


@dataclass(frozen=True)
class Judged:
    """A statistic with its 95 % interval over seeds, and the verdict.

    `seeds_needed` is how many seeds would decide, with the variance seen, where these do not; None
    where they do, or where it cannot be told.
    """

    value: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    seeds: int
    seeds_needed: int | None = None


def judge(values: Sequence[float], prediction: Prediction) -> Judged:
    """The verdict on a statistic that was computed once for each seed.

    reversed: the whole interval is on the side of `null` that is not predicted. not confirmed: it
    excludes an effect of the size `least`, or is outside the range. confirmed: it does not, and all
    of it is on the side that is predicted, or in the range. undecided: it is none of these, or
    there are fewer than two seeds.

    >>> judge([1.9, 2.1, 2.0], Prediction("above", null=1.0)).verdict
    'confirmed'
    """
    middle, interval = mean(values), interval_of_mean(values)
    if middle is None or interval is None:
        return Judged(middle, None, "undecided", len(values))
    verdict = _verdict(interval, prediction)
    needed = None
    if verdict == "undecided":
        needed = _seeds_needed(middle, deviation(values) or 0.0, prediction)
    return Judged(middle, interval, verdict, len(values), needed)


def _verdict(interval: tuple[float, float], prediction: Prediction) -> Verdict:
    low, high = interval
    if prediction.direction == "within":
        if prediction.low <= low and high <= prediction.high:
            return "confirmed"
        return "not confirmed" if high < prediction.low or low > prediction.high else "undecided"
    sign = 1.0 if prediction.direction == "above" else -1.0
    low, high = sorted((sign * low, sign * high))
    null = sign * prediction.null
    if high < null:
        return "reversed"
    if prediction.least is not None and high < sign * prediction.least:
        return "not confirmed"
    return "confirmed" if low > null else "undecided"


def _seeds_needed(middle: float, spread: float, prediction: Prediction) -> int | None:
    """The fewest seeds whose interval would decide, if mean and deviation stay as they are."""
    if prediction.direction == "within":
        ends = [abs(middle - end) for end in (prediction.low, prediction.high)]
        room = min(ends)
    else:
        sign = 1.0 if prediction.direction == "above" else -1.0
        room = abs(middle - prediction.null)
        if prediction.least is not None:
            room = max(room, sign * (prediction.least - middle))
    if room <= 0:
        return None
    counts = range(2, _MOST_SEEDS + 1)
    # The half width falls with every seed.
    place = bisect.bisect_left(counts, -room, key=lambda n: -student(n - 1) * spread / math.sqrt(n))
    return counts[place] if place < len(counts) else None
