"""Samples of the data that grow until what they leave unknown is small enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpcli.documents.results import CheckpointResult, flat_scalars, with_sampling_errors
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted
from sharpcli.measures.columns import leading_names
from sharpcli.runtime.progress import Notes

__all__ = ["FIRST_SAMPLES", "Judge", "Widest", "grown", "widest"]

# Examples that growing samples begin with.
FIRST_SAMPLES = 512
# A sample with no smaller one before it has to meet this share of the target.
_AT_ONCE = 0.7


@dataclass(frozen=True)
class Widest:
    """The number that sampling leaves least known, and by what share of it.

    Where its error is not `reliable` the share is 1 at least.
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
    """The leading number of `measures` whose sampling error, with its bias, is the largest share.

    Leading are the loss of the split, each φ, λ1, the trace and what else a measure calls so;
    without any of them all numbers. One whose error cannot be told is not known at all, one whose
    error is unreliable not better than to all of itself. None where there is no number.
    """
    scalars = flat_scalars(measures)
    others = tuple(f".{other}" for other in ("train", "test") if other != split)
    leading = [key for key in leading_names(scalars) if not key.endswith(others)]
    chosen = {key: scalars[key] for key in leading} or scalars
    found = [_known(key, each) for key, each in chosen.items()]
    return max(found, key=lambda each: each.share, default=None)


class Judge:
    """Whether a sample is enough, from what it and the smaller ones before it have shown.

    A sample that stops because its own error looks small is one whose error is too small more often
    than not. So an error counts as far as all samples so far agree on it: their variances an
    example are averaged, each with its number of examples as the weight. The first sample, which
    has nothing beside it, is enough only at `_AT_ONCE` of the target. On a network of which 250
    samples grew to targets from 0.2 to 0.03, intervals of the ones that had stopped held the trace
    in 94 to 98 %, at 1.0 to 1.7 times the examples; by their own errors alone in 86 to 91 %.
    """

    def __init__(self, target: float, split: str) -> None:
        self._target, self._split = target, split
        self._looks: list[tuple[int, float, Mapping[str, float]]] = []
        self.enough = False
        self.widest: Widest | None = None

    def __call__(self, measures: Mapping[str, Any], count: int, total: int) -> dict[str, Any]:
        """What was measured on `count` of `total` examples, with the errors that count.

        Sets `widest`, and whether this is `enough`.
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


def grown(
    judge: Judge,
    measure: Callable[[int], CheckpointResult],
    *,
    first: int,
    notes: Notes,
) -> CheckpointResult:
    """What `measure` gives with `first` examples, or twice as many until `judge` says enough.

    `measure` asks the judge. That is where no leading number's sampling error is a larger share
    than its target. With all of the data there is none, so it ends there. Samples are nested where
    they are drawn by one seed. Cost: at most that of the last measurement, beside it.
    """
    count = first
    while True:
        result = measure(count)
        used, total = result.checkpoint.get("examples"), result.checkpoint.get("examples_in_all")
        if result.status != Outcome.OK or total is None:
            if result.status == Outcome.OK:
                notes.note(
                    f"measured on all {counted(used, 'example')}: no sample of them was enough"
                )
            return result
        if judge.enough:
            notes.note(f"measured on {used:,} of {counted(total, 'example')}: {judge.widest}")
            return result
        count *= 2
        more = "all" if count >= total else str(count)
        notes.note(
            f"{used:,} of {counted(total, 'example')} are too few ({judge.widest}): takes {more}"
        )


def _pooled(looks: Sequence[tuple[int, float, Mapping[str, float]]], key: str) -> float:
    """The last one's sampling error of a number, from the variance that all looks saw."""
    seen = [(count, errors[key] ** 2 / left) for count, left, errors in looks if key in errors]
    variance = sum(count**2 * each for count, each in seen) / sum(count for count, _ in seen)
    count, left, _ = looks[-1]
    return math.sqrt(variance / count * left)


def _known(key: str, scalar: Mapping[str, Any]) -> Widest:
    """The sampling error, with the bias, as a share of the value."""
    error, value = scalar.get("sampling_error"), scalar["value"]
    if error is None or value is None:
        return Widest(key, math.inf)
    off = math.hypot(error, scalar.get("sampling_bias") or 0.0)
    share = off / abs(value) if value else (math.inf if off else 0.0)
    return (
        Widest(key, max(share, 1.0), False) if scalar.get("sampling_status") else Widest(key, share)
    )
