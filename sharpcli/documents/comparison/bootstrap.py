"""Bootstrap intervals of correlations, seeded and in plain Python."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sharpcli.documents.scoring.statistics import quantile

__all__ = ["MOST_PAIRS", "Resamples", "correlation_interval", "granulated_intervals", "resampled"]

Interval = tuple[float, float]
Pairs = Sequence[tuple[int, int, float, float]]

_FEWEST_SETTINGS = 8  # with fewer, resampled settings are too coarse: runs are resampled
_LARGEST = 200  # runs of a resample; with more runs, intervals are scaled from this size
_MOST, _FEWEST = 500, 200  # resamples
_WORK = 500_000  # runs of all resamples of all measures together: about a second
MOST_PAIRS = 20_000  # of a granulated coefficient with an interval
_TAIL = 0.025


@dataclass(frozen=True)
class Resamples:
    """Lists of runs, drawn with replacement.

    `scale` is √(drawn units/all units): deviations on smaller resamples are that much wider.
    """

    draws: Sequence[Sequence[int]]
    of: Literal["runs", "settings"]
    scale: float


def resampled(settings: Sequence[object], measures: int) -> Resamples:
    """Resamples of runs with these settings.

    Where settings have several runs, their numbers are not independent, so all runs of a setting
    are drawn together if there are enough settings. The number of resamples depends on the number
    of runs and of measures, so that thousands of runs take seconds.
    """
    together: dict[object, list[int]] = {}
    for index, each in enumerate(settings):
        together.setdefault(each, []).append(index)
    n = len(settings)
    grouped = _FEWEST_SETTINGS <= len(together) < n
    units = [*together.values()] if grouped else [[index] for index in range(n)]
    drawn = min(len(units), max(_FEWEST_SETTINGS, _LARGEST * len(units) // n))
    size = max(1, drawn * n // len(units))
    count = max(_FEWEST, min(_MOST, _WORK // (size * max(1, measures))))
    generator = random.Random(0)  # the same numbers give the same interval
    draws = [
        [run for unit in generator.choices(units, k=drawn) for run in unit] for _ in range(count)
    ]
    return Resamples(draws, "settings" if grouped else "runs", math.sqrt(drawn / len(units)))


def correlation_interval(
    statistic: Callable[[Sequence[float], Sequence[float]], float | None],
    x: Sequence[float],
    y: Sequence[float],
    resamples: Resamples,
) -> Interval | None:
    """The percentile interval of a correlation; None if x or y is constant.

    With more than 200 runs, smaller resamples are drawn and the deviations scaled.

    Source: Efron & Tibshirani 1993, chapter 13; Bickel, Götze & van Zwet 1997 for smaller ones.
    """
    value = statistic(x, y)
    if value is None:
        return None
    found = [statistic([x[i] for i in draw], [y[i] for i in draw]) for draw in resamples.draws]
    return _percentiles([each for each in found if each is not None], value, resamples.scale)


def granulated_intervals(
    pairs: Mapping[str, Pairs], values: Mapping[str, float], value: float, resamples: Resamples
) -> tuple[Interval | None, dict[str, Interval | None]]:
    """The intervals of Ψ and of each ψ; None where resamples have fewer runs than there are.

    A pair counts as often as both its runs are drawn. The interval is wider than it need be, up to
    √3 times for factors of two levels, because a run drawn twice also doubles its pairs.
    """
    if resamples.scale < 1:
        return None, dict.fromkeys(pairs)
    drawn: dict[str, list[float]] = {factor: [] for factor in pairs}
    means: list[float] = []
    for draw in resamples.draws:
        times = Counter(draw)
        found = {factor: _weighted(each, times) for factor, each in pairs.items()}
        known = {factor: psi for factor, psi in found.items() if psi is not None}
        for factor, psi in known.items():
            drawn[factor].append(psi)
        if len(known) == len(found):
            means.append(math.fsum(known.values()) / len(known))
    return (
        _percentiles(means, value, 1.0),
        {factor: _percentiles(each, values[factor], 1.0) for factor, each in drawn.items()},
    )


def _weighted(pairs: Pairs, times: Mapping[int, int]) -> float | None:
    """ψ with each pair as often as both its runs are drawn; None if no pair is."""
    above = below = 0.0
    for a, b, share, signed in pairs:
        both = times[a] * times[b]
        if both:
            above += both * signed
            below += both * share
    return above / below if below else None


def _percentiles(found: Sequence[float], value: float, scale: float) -> Interval | None:
    """The 2.5 % and 97.5 % percentiles, their deviations from `value` times `scale`."""
    if len(found) < _FEWEST / 2:
        return None
    low, high = (quantile(found, share) for share in (_TAIL, 1 - _TAIL))
    return max(-1.0, value + scale * (low - value)), min(1.0, value + scale * (high - value))
