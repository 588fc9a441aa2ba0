"""Measure on growing samples of the data, until the sampling errors are small enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpcli.documents.results import CheckpointResult
from sharpcli.documents.scalars import flat_scalars, with_sampling_errors
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted
from sharpcli.measures.columns import leading_names
from sharpcli.runtime.progress import Notes

__all__ = ["FIRST_IN_TIME", "FIRST_SAMPLES", "Judge", "Limit", "Widest", "grown", "widest"]

# Size of the first sample.
FIRST_SAMPLES = 512
# Size of the first sample of a run with a time limit: small, so that it fits, and large enough for
# sampling errors from 16 shards.
FIRST_IN_TIME = 128
# Growth by less is not worth a measurement; growth by more is not foretold well enough.
_LEAST_GROWTH, _MOST_GROWTH = 1.5, 8.0
# More examples than the target needs by the errors so far, which are known to about a fifth.
_SPARE = 1.2
# Share of the time left that the next measurement may take by the estimate.
_USED = 0.8
# The first sample must reach this share of the target.
_AT_ONCE = 0.7


@dataclass(frozen=True)
class Widest:
    """The number with the largest relative sampling error, and that error.

    `share` is the error as a share of the value; at least 1 if the error is not `reliable`.
    """

    key: str
    share: float
    reliable: bool = True

    def __str__(self) -> str:
        """`λ1 to 12 %`."""
        known = f"to {100 * self.share:.3g} %" if math.isfinite(self.share) else "not at all"
        known = known if self.reliable else "not reliably"
        return f"{leading_names([self.key]).get(self.key, self.key)} {known}"


def widest(measures: Mapping[str, Any], split: str) -> Widest | None:
    """The leading number of `measures` with the largest relative sampling error, bias included.

    Leading numbers are the loss of the split, each φ, λ1, the trace, and those that a measure
    declares; without any of them, all numbers. An unknown error counts as infinite, an unreliable
    one as 100 % at least. None if there is no number.
    """
    scalars = flat_scalars(measures)
    others = tuple(f".{other}" for other in ("train", "test") if other != split)
    leading = [key for key in leading_names(scalars) if not key.endswith(others)]
    chosen = {key: scalars[key] for key in leading} or scalars
    found = [_known(key, each) for key, each in chosen.items()]
    return max(found, key=lambda each: each.share, default=None)


@dataclass(frozen=True)
class Limit:
    """When the measurements of a checkpoint must end, by a clock."""

    end: float
    clock: Callable[[], float]

    @property
    def left(self) -> float:
        """Seconds left; negative if it is too late."""
        return self.end - self.clock()

    def factor(self, seconds: float) -> float:
        """How many times as many examples fit into the time left, after a look of `seconds`.

        The time of a look is taken as proportional to its examples, which is too long where a fixed
        part is long; a fifth of the time left stays free for more iterations on more data.
        """
        return min(_MOST_GROWTH, _USED * self.left / max(seconds, 1e-9))


class Judge:
    """Decides whether a sample is large enough, from this sample and the smaller ones before.

    Stopping as soon as a sample's own error looks small favours errors that are too small. So the
    variances per example of all samples so far are averaged, weighted by their numbers of examples.
    The first sample has no others to average with, so it must reach `_AT_ONCE` of the target. With
    250 samples of one network, grown to targets from 0.2 to 0.03, the final intervals covered the
    trace in 94 to 98 % of cases, at 1.0 to 1.7 times the examples; with each sample's own errors
    alone in 86 to 91 %.
    """

    def __init__(self, target: float, split: str) -> None:
        self._target, self._split = target, split
        self._looks: list[tuple[int, float, Mapping[str, float]]] = []
        self.enough = False
        self.widest: Widest | None = None

    def __call__(self, measures: Mapping[str, Any], count: int, total: int) -> dict[str, Any]:
        """The measures on `count` of `total` examples, with averaged sampling errors.

        Sets `widest` and `enough`.
        """
        left = 1 - count / total
        own = {
            key: each["sampling_error"]
            for key, each in flat_scalars(measures).items()
            if each.get("sampling_error") is not None and not each.get("sampling_status")
        }
        looks = [*self._looks, (count, left, own)]
        errors = {key: _pooled(looks, key) for key in own}
        found: dict[str, Any] = with_sampling_errors(measures, errors)
        self.widest = widest(found, self._split)
        limit = self._target * (1.0 if self._looks else _AT_ONCE)
        self.enough = self.widest is None or self.widest.share <= limit
        self._looks = looks
        return found

    def factor(self, count: int, total: int) -> float:
        """How many times as many examples the target needs, by the widest error of the last sample.

        The square of an error falls as 1/count − 1/total. Two if the error is not known.
        """
        if self.widest is None or not self.widest.reliable or not math.isfinite(self.widest.share):
            return 2.0
        left = (self._target / self.widest.share) ** 2 * (1 / count - 1 / total)
        return min(max(_SPARE / count / (left + 1 / total), _LEAST_GROWTH), _MOST_GROWTH)


def grown(
    judge: Judge,
    measure: Callable[[int], CheckpointResult],
    *,
    first: int,
    notes: Notes,
    limit: Limit | None = None,
) -> CheckpointResult:
    """Measure on `first` examples, and on more each time until `judge` is satisfied.

    The next sample has as many examples as the errors so far ask for. With a `limit` growth also
    ends before a measurement that would probably end too late.

    `measure` calls the judge, which is satisfied once the relative sampling error of every leading
    number meets the target. All data have no sampling error, so growth ends there. Samples with
    the same seed are nested.

    Cost: that of the last measurement and of the smaller ones before it; mostly two in all.
    """
    count = first
    while True:
        started = limit.clock() if limit else 0.0
        result = measure(count)
        used, total = result.checkpoint.get("examples"), result.checkpoint.get("examples_in_all")
        if result.status != Outcome.OK or total is None:
            if result.status == Outcome.OK:
                notes.note(
                    f"measured on all {counted(used, 'example')}: no smaller sample was enough"
                )
            return result
        if judge.enough:
            notes.note(f"measured on {used:,} of {counted(total, 'example')}: {judge.widest}")
            return result
        factor = judge.factor(used or count, total)
        if limit is not None:
            factor = min(factor, limit.factor(limit.clock() - started))
        if factor < _LEAST_GROWTH:
            late = limit is not None and limit.left < 0
            notes.note(
                f"measured on {used:,} of {counted(total, 'example')}: {judge.widest}; "
                + (
                    "even this sample took longer than the time given"
                    if late and count == first
                    else "no larger sample fits into the time"
                )
            )
            return result
        count = min(int(count * factor), total)
        more = "all" if count >= total else str(count)
        notes.note(
            f"{used:,} of {counted(total, 'example')} not enough ({judge.widest}); trying {more}"
        )


def _pooled(looks: Sequence[tuple[int, float, Mapping[str, float]]], key: str) -> float:
    """The sampling error of a number in the last sample, from the variance over all samples."""
    seen = [(count, errors[key] ** 2 / left) for count, left, errors in looks if key in errors]
    variance = sum(count**2 * each for count, each in seen) / sum(count for count, _ in seen)
    count, left, _ = looks[-1]
    return math.sqrt(variance / count * left)


def _known(key: str, scalar: Mapping[str, Any]) -> Widest:
    """The relative sampling error of a number, bias included."""
    error, value = scalar.get("sampling_error"), scalar["value"]
    if error is None or value is None:
        return Widest(key, math.inf)
    off = math.hypot(error, scalar.get("sampling_bias") or 0.0)
    share = off / abs(value) if value else (math.inf if off else 0.0)
    return (
        Widest(key, max(share, 1.0), False) if scalar.get("sampling_status") else Widest(key, share)
    )
