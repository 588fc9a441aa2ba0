"""Two checkpoints compared number by number: ratio and difference with intervals, and a verdict.

On one sample the errors of two checkpoints are correlated, and most of them cancel in a ratio. The
numbers' values on equal shards of the sample (`Scalar.shards`) give what remains. Reads only
documents, in plain Python.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Annotated, Any, Literal

from sharpcli.documents.fields import absent
from sharpcli.documents.labels import named
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.scoring.statistics import carriers, student
from sharpcli.documents.statuses import NOT_CONVERGED, SamplingStatus
from sharpcli.documents.uncertainty import NOTHING_EXACT, Uncertainty, uncertainty_of
from sharpcli.settings.fields import Keywords

__all__ = [
    "MOST_WITH_FIRST",
    "Contrast",
    "Estimate",
    "Measured",
    "Pair",
    "Verdict",
    "contrast_of",
    "different_data",
    "measured",
    "pair_of",
    "pairs_of",
]

Verdict = Literal["sharper", "flatter", "higher", "lower", "undecided"]

LEVEL = 0.95
# Up to this many checkpoints all pairs are compared, up to the second number each one with the
# first. Of 200 minima of digits, 20 numbers each, those pairs would be two thirds of the document.
_MOST_FOR_ALL, MOST_WITH_FIRST = 6, 50
# A largest loss that a search found may be lower than the true one by this share. The benchmark
# `maximum`: of 24 minima with losses from 1e-1 to 1e-7, the worst was 4.2 % below the best of 60
# random starts.
_MISSED_BY_SEARCH = 0.05
# Up to this many shards sums over them are nearly normal. With 64 shards of 512 of 4,000 MNIST
# images at a loss of 0.02, half the degrees of freedom covered a ratio of losses in 92 % of 400
# samples instead of 91 %, of gaps in 94 % instead of 92 %.
_FEW_SHARDS = 16
# float32 gives two orders of the same sums as different numbers: by at most this share.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Estimate:
    """A ratio or a difference with its interval."""

    value: Annotated[float | None, "Null if it has none, as a ratio to 0."]
    interval: Annotated[
        Sequence[float] | None,
        "Lowest and highest; null if it is not known or not bounded.",
        Keywords(minItems=2, maxItems=2),
    ] = None


@dataclass(frozen=True)
class Pair:
    """One number of two checkpoints: a against b."""

    a: Annotated[str, "The first checkpoint."]
    b: Annotated[str, "The second checkpoint."]
    measure: Annotated[str, "Flat key."]
    ratio: Annotated[Estimate, "a/b."]
    difference: Annotated[Estimate, "a − b."]
    verdict: Annotated[
        Verdict,
        "Of a against b, at 95 %: sharper or flatter; for a number that is no sharpness higher or "
        "lower; undecided if the interval allows both.",
    ] = "undecided"
    reason: Annotated[str | None, "Why no verdict is possible, whatever the interval."] = absent()
    paired: Annotated[
        bool | None,
        "Whether the errors were paired by shard; false: combined as if independent; absent if all "
        "data were measured.",
    ] = absent()
    log_error: Annotated[
        float | None,
        "Standard error of log(a/b), without residuals; absent if it is not known.",
        Keywords(minimum=0),
    ] = absent()
    degrees_of_freedom: Annotated[
        float | None, "Of the paired sampling error.", Keywords(minimum=0)
    ] = absent()
    more_examples: Annotated[
        int | None,
        "How many more examples would decide it, if the ratio stays what it is; absent if it is "
        "decided, or if not even all data would decide it.",
        Keywords(minimum=1),
    ] = absent()
    sampling_status: Annotated[
        SamplingStatus | None, "unreliable: the sampling error may be too small."
    ] = absent()


@dataclass(frozen=True)
class Measured:
    """One checkpoint's numbers and the sample that they were measured on.

    `sample` identifies the sample's rows and their division in shards; None if all data were
    measured, or in documents of earlier releases. `data` has the options by which the checkpoint's
    metadata chose its data; None for those of the run.
    """

    label: str
    scalars: Mapping[str, Mapping[str, Any]]
    count: int | None = None
    total: int | None = None
    sample: str | None = None
    data: str | None = None


def measured(result: Mapping[str, Any]) -> Measured:
    """The numbers of a `measure` document's result, under the checkpoint's path."""
    about = result["checkpoint"]
    return Measured(
        str(about["path"]),
        flat_scalars(result["measures"]),
        about.get("examples"),
        about.get("examples_in_all"),
        about.get("sample"),
        about.get("data"),
    )


def different_data(checkpoints: Sequence[Measured]) -> str | None:
    """What checkpoints were measured on, if their metadata chose different data; else None."""
    by_data: dict[str | None, list[str]] = {}
    for each in checkpoints:
        by_data.setdefault(each.data, []).append(each.label)
    if len(by_data) < 2:
        return None
    every = (f"{data or 'the default'} ({named(labels)})" for data, labels in by_data.items())
    return f"measured on different data, as their metadata say: {'; '.join(every)}"


def pairs_of(
    checkpoints: Sequence[Measured],
    larger_is_sharper: Mapping[str, bool | None],
    *,
    baseline: int | None = None,
    exact: Mapping[str, bool] = NOTHING_EXACT,
    level: float = LEVEL,
) -> list[Pair]:
    """Every number that two checkpoints share, for all pairs of them.

    Checkpoints whose metadata chose different data are not compared. With more than six
    checkpoints, or with the index of a `baseline`, each other one is compared with the baseline
    (default: the first); with more than 50 only if there is a baseline. `larger_is_sharper` has by
    flat key what `pair_of` is given, as `exact`.
    """
    if baseline is None and len(checkpoints) <= _MOST_FOR_ALL:
        chosen = list(itertools.combinations(checkpoints, 2))
    elif baseline is None and len(checkpoints) > MOST_WITH_FIRST:
        chosen = []
    else:
        base = checkpoints[baseline or 0]
        chosen = [(each, base) for each in checkpoints if each is not base]
    return [
        replace(
            pair_of(
                a.scalars[key],
                b.scalars[key],
                key,
                *_smaller_sample(a, b),
                sampled=(a.total is not None, b.total is not None),
                same_rows=a.sample is not None and a.sample == b.sample,
                larger_is_sharper=larger_is_sharper.get(key),
                exact=exact,
                level=level,
            ),
            a=a.label,
            b=b.label,
        )
        for a, b in chosen
        for key in a.scalars
        if key in b.scalars and a.data == b.data
    ]


def pair_of(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    key: str,
    count: int | None = None,
    total: int | None = None,
    *,
    sampled: tuple[bool, bool] | None = None,
    same_rows: bool = True,
    larger_is_sharper: bool | None = True,
    exact: Mapping[str, bool] = NOTHING_EXACT,
    level: float = LEVEL,
) -> Pair:
    """Compare one number of two checkpoints; the mappings are fields of a `Scalar`.

    Args:
        a: The first one's number.
        b: The second one's.
        key: Its flat key.
        count: How many examples were measured; None if all.
        total: How many examples there are in all.
        sampled: Which of the two were measured on a sample; None: both, if there is a `total`.
        same_rows: Both were measured on the same examples in the same shards.
        larger_is_sharper: What a larger value means; None if it is no sharpness.
        exact: JSON keys of measures that are exact up to rounding if they state no error, and
            whether their numbers depend on the data.
        level: Of the intervals and the verdict.
    """
    found = Pair("a", "b", key, Estimate(None), Estimate(None))
    if a.get("value") is None or b.get("value") is None:
        return replace(found, reason="one of them has no value")
    above, below = (_middle(each) for each in (a, b))
    found = replace(
        found,
        ratio=Estimate(above / below if below else None),
        difference=Estimate(above - below),
        sampling_status=_unreliable(a, b),
    )
    both = contrast_of(
        a, b, key, count, total, sampled=sampled, same_rows=same_rows, exact=exact, level=level
    )
    if both is None:
        return replace(found, reason="the error of one of them is not known")
    of_samples = both.scatter is not None or any(each.sampling for each in both.own)
    if "upper_bound" not in _bounds(a, b) and (of_samples or "lower_bound" not in _bounds(a, b)):
        found = replace(
            found,
            ratio=replace(found.ratio, interval=both.ratio_interval()),
            difference=replace(found.difference, interval=both.interval()),
        )
    found = replace(
        found,
        paired=both.scatter is not None if of_samples else None,
        log_error=both.standard(1.0, both.center) / abs(above) if above and below else None,
        degrees_of_freedom=both.degrees if both.scatter is not None else None,
    )
    return _judged(found, both, a, b, larger_is_sharper, count, total)


def contrast_of(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    key: str,
    count: int | None = None,
    total: int | None = None,
    *,
    sampled: tuple[bool, bool] | None = None,
    same_rows: bool = True,
    exact: Mapping[str, bool] = NOTHING_EXACT,
    level: float = LEVEL,
) -> Contrast | None:
    """Both numbers with their errors, as for `pair_of`; None if part of an error is not known."""
    which = sampled or (total is not None,) * 2
    own = [
        uncertainty_of(key, each, sampled=of_sample, exact=exact)
        for each, of_sample in zip((a, b), which, strict=True)
    ]
    if own[0] is None or own[1] is None or a.get("value") is None or b.get("value") is None:
        return None
    scatter = _scatter(a, b, count, total) if same_rows else None
    return Contrast((_middle(a), _middle(b)), (own[0], own[1]), scatter, level)


def _smaller_sample(*checkpoints: Measured) -> tuple[int | None, int | None]:
    """The examples of the smallest sample and of all data; no number if all data were measured."""
    samples = [(each.count or 0, each.total) for each in checkpoints if each.total is not None]
    return min(samples, default=(checkpoints[0].count, None), key=lambda each: each[0] or 0)


def _middle(scalar: Mapping[str, Any]) -> float:
    """The value without its known bias."""
    return float(scalar["value"]) - float(scalar.get("sampling_bias") or 0.0)


def _unreliable(*scalars: Mapping[str, Any]) -> SamplingStatus | None:
    some = any(each.get("sampling_status") for each in scalars)
    return SamplingStatus.UNRELIABLE if some else None


def _bounds(*scalars: Mapping[str, Any]) -> set[Any]:
    return {scalar.get(name) for scalar in scalars for name in ("status", "error_kind")}


def _judged(
    found: Pair,
    both: Contrast,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    larger_is_sharper: bool | None,
    count: int | None,
    total: int | None,
) -> Pair:
    """The pair with its verdict, or why there is none and what would give one."""
    if any(each.get("status") in NOT_CONVERGED for each in (a, b)):
        return replace(found, reason="one of them did not converge")
    if found.sampling_status:
        return replace(found, reason="the sampling error is unreliable")
    off = both.values[0] - both.values[1]
    # The smaller one may be larger than what is known of it, the larger one smaller.
    less, more = (b, a) if off > 0 else (a, b)
    if "upper_bound" in _bounds(more):
        return replace(found, reason="the true value may be lower than this bound")
    missed = _MISSED_BY_SEARCH * abs(float(less["value"])) if "lower_bound" in _bounds(less) else 0
    left = abs(off) - both.limit(1.0, 1.0) - missed
    statistical = both.half(1.0, 1.0) - both.limit(1.0, 1.0)
    if left > statistical or (left > 0 and not statistical):
        return replace(found, verdict=_verdict(off > 0, larger_is_sharper))
    if count is None or total is None or left <= 0:
        return found
    # The sampling variance is in proportion to 1/n − 1/N; the others stay.
    random, sampling = both.parts(1.0, 1.0)
    share = (left * left - random * random) / (sampling * sampling) if sampling else 0.0
    if share <= 0:
        return found
    enough = 1 / (1 / total + share * (1 / count - 1 / total))
    return replace(found, more_examples=max(1, math.ceil(enough) - count))


def _verdict(larger: bool, larger_is_sharper: bool | None) -> Verdict:
    if larger_is_sharper is None:
        return "higher" if larger else "lower"
    return "sharper" if larger == larger_is_sharper else "flatter"


def _scatter(
    a: Mapping[str, Any], b: Mapping[str, Any], count: int | None, total: int | None
) -> Scatter | None:
    """How both numbers vary over shards; None if one of them has none."""
    of_a, of_b = a.get("shards"), b.get("shards")
    if not of_a or not of_b or len(of_a) != len(of_b) or not count or not total:
        return None
    offs = [[x - math.fsum(each) / len(each) for x in each] for each in (of_a, of_b)]
    shifts = [
        float(each.get("sampling_shift") or each.get("sampling_bias") or 0.0) for each in (a, b)
    ]
    return Scatter((offs[0], offs[1]), 1 - count / total, (shifts[0], shifts[1]))


@dataclass(frozen=True)
class Scatter:
    """How two numbers vary together over the shards of one sample.

    `offs` are both numbers' deviations from their means over the shards; `share_left` is 1 − n/N;
    `shifts` are how far sampling moves each number on average, to second order.
    """

    offs: tuple[Sequence[float], Sequence[float]]
    share_left: float
    shifts: tuple[float, float]

    def error(self, x: float, y: float) -> float:
        """The standard error of x·a − y·b: first order over shards, and the shifts."""
        offs = self._offs_at(x, y)
        square = math.fsum(off * off for off in offs) / (len(offs) - 1) / len(offs)
        return math.hypot(
            math.sqrt(square * self.share_left), x * self.shifts[0] - y * self.shifts[1]
        )

    def degrees(self, x: float, y: float) -> float:
        """Degrees of freedom of that error: one fewer than the shards, less if few carry it.

        Satterthwaite's 2·count/(κ − 1) with the kurtosis κ over the shards; half of it over many
        shards, as for the mean of a sample: its heaviest examples may be missing.
        """
        offs = self._offs_at(x, y)
        largest = max(map(abs, offs)) or 1.0
        powers = [(off / largest) ** 2 for off in offs]
        carried = carriers(sum(powers), sum(power * power for power in powers), len(offs))
        factor = 1 if len(offs) > _FEW_SHARDS else 2
        return max(1.0, min(len(offs) - 1.0, factor * carried or math.inf))

    def _offs_at(self, x: float, y: float) -> list[float]:
        return [x * a - y * b for a, b in zip(*self.offs, strict=True)]


@dataclass(frozen=True)
class Contrast:
    """Two numbers with what is needed for an interval of x·a − y·b at any x and y."""

    values: tuple[float, float]
    own: tuple[Uncertainty, Uncertainty]
    scatter: Scatter | None
    level: float

    @property
    def center(self) -> float:
        """a/b; b is not 0."""
        return self.values[0] / self.values[1]

    @functools.cached_property
    def degrees(self) -> float:
        """Degrees of freedom of the error of the ratio (of the difference if b is 0)."""
        if self.scatter is None:
            return math.inf
        return self.scatter.degrees(1.0, self.center if self.values[1] else 1.0)

    @functools.cached_property
    def _quantiles(self) -> tuple[float, float]:
        """Of the normal distribution, and of Student's for the paired sampling error."""
        within = NormalDist().inv_cdf((1 + self.level) / 2)
        return within, within if self.scatter is None else student(self.degrees, self.level)

    def standard(self, x: float, y: float) -> float:
        """The standard error, without limits and not widened for few degrees of freedom."""
        return math.hypot(self._random(x, y), self._sampling(x, y))

    def limit(self, x: float, y: float) -> float:
        """What limits, such as residuals, add to half the interval's width."""
        limits = [each.limit for each in self.own]
        if self.scatter is not None:
            limits = [
                max(limit, _ROUNDING * abs(value))
                for limit, value in zip(limits, self.values, strict=True)
            ]
        return abs(x) * limits[0] + abs(y) * limits[1]

    def parts(self, x: float, y: float) -> tuple[float, float]:
        """What random estimates and the sample add to half the width, as in `half`."""
        within, quantile = self._quantiles
        return within * self._random(x, y), quantile * self._sampling(x, y)

    def widened(self, x: float, y: float) -> float:
        """The standard error widened so that ± 1.96 times it is Student's interval."""
        return math.hypot(*self.parts(x, y)) / self._quantiles[0]

    def half(self, x: float, y: float) -> float:
        """Half the width of the interval."""
        return self.limit(x, y) + math.hypot(*self.parts(x, y))

    def interval(self) -> tuple[float, float]:
        """The interval of a − b."""
        off, half = self.values[0] - self.values[1], self.half(1.0, 1.0)
        return off - half, off + half

    def ratio_interval(self) -> tuple[float, float] | None:
        """All r for which 0 is in the interval of a − r·b; None if unbounded.

        Source: Fieller 1954.
        """
        below = abs(self.values[1])
        alone = self.half(0.0, 1.0)
        if not below > alone:
            return None
        farthest = self.half(1.0, self.center) / (below - alone)
        ends = []
        for direction in (-1, 1):
            low, high = 0.0, farthest
            for _ in range(60):
                middle = (low + high) / 2
                inside = middle * below <= self.half(1.0, self.center + direction * middle)
                low, high = (middle, high) if inside else (low, middle)
            ends.append(self.center + direction * high)
        return ends[0], ends[1]

    def _random(self, x: float, y: float) -> float:
        return math.hypot(x * self.own[0].random, y * self.own[1].random)

    def _sampling(self, x: float, y: float) -> float:
        if self.scatter is not None:
            return self.scatter.error(x, y)
        return math.hypot(x * self.own[0].sampling, y * self.own[1].sampling)
