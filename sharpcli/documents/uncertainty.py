"""Errors of differences and ratios of measured numbers, in plain Python.

Three kinds of error combine differently. Residuals are limits, so they add. The standard errors of
a random estimate and of a data sample are independent, so their squares add. The average excess of
a maximum on a sample (`sampling_bias`) is subtracted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from sharpcli.documents.statuses import SOUND, Status

__all__ = [
    "NOTHING_EXACT",
    "WITHIN",
    "Bound",
    "Uncertainty",
    "bound_of",
    "difference_bound",
    "ratio_bound",
    "ratio_error",
    "ratio_interval",
    "uncertainty_of",
    "worst_status",
]

WITHIN = 1.96  # standard errors: an interval of nominally 95 %

Bound = Literal["lower_bound", "upper_bound", "two_bounds"]

NOTHING_EXACT: Mapping[str, bool] = MappingProxyType({})

# Losses and metrics are means over examples; without an error they are exact up to rounding.
_MEAN = re.compile(r"[^.\[]+\.(train|test|gap)")


@dataclass(frozen=True)
class Uncertainty:
    """The parts of a number's error: `limit` is never exceeded, the others are standard errors.

    `over_seeds` is the standard error of a mean over a group's members. `stated` says whether the
    document states any error; without one the number is exact up to rounding.
    """

    limit: float = 0.0
    random: float = 0.0
    sampling: float = 0.0
    bias: float = 0.0
    over_seeds: float = 0.0
    stated: bool = True

    @property
    def standard(self) -> float:
        """The combined standard error."""
        return math.hypot(self.random, self.sampling, self.over_seeds)

    @property
    def measurement(self) -> float | None:
        """The measurement's own error, limits and standard errors added; None if exact."""
        return self.limit + math.hypot(self.random, self.sampling) if self.stated else None

    @property
    def half_width(self) -> float:
        """Half the width of the nominal 95 % interval."""
        return self.limit + WITHIN * self.standard

    def minus(self, other: Uncertainty) -> Uncertainty:
        """The uncertainty of this number minus another one, measured independently."""
        return Uncertainty(
            self.limit + other.limit,
            math.hypot(self.random, other.random),
            math.hypot(self.sampling, other.sampling),
            self.bias - other.bias,
            math.hypot(self.over_seeds, other.over_seeds),
            self.stated or other.stated,
        )

    @staticmethod
    def of_mean(parts: Sequence[Uncertainty], over_seeds: float) -> Uncertainty:
        """The uncertainty of a mean: the mean of each part, as for fully correlated errors.

        Checkpoints measured on the same data sample have correlated errors, which their spread over
        seeds then does not include.
        """
        names = [field.name for field in fields(Uncertainty) if field.name != "stated"]
        means = {name: sum(getattr(p, name) / len(parts) for p in parts) for name in names}
        stated = any(part.stated for part in parts)
        return Uncertainty(**{**means, "over_seeds": over_seeds}, stated=stated)


def uncertainty_of(
    key: str, scalar: Mapping[str, Any], *, sampled: bool, exact: Mapping[str, bool] = NOTHING_EXACT
) -> Uncertainty | None:
    """The errors of one scalar of a document; None if some part of them is unknown.

    Args:
        key: The scalar's flat key.
        scalar: Its fields.
        sampled: Its checkpoint was measured on a data sample. Then every number has a sampling
            error, which is unknown if it is not stated. A loss or metric is the exception, because
            one of its splits may have been measured completely. A sampling error of 0, as for an
            accuracy of 1, is unknown too.
        exact: JSON keys of measures that are exact up to rounding if they state no error, and
            whether their numbers depend on the data.
    """
    error, kind = scalar.get("error"), scalar.get("error_kind")
    sampling = scalar.get("sampling_error")
    mean = _MEAN.fullmatch(key)
    measure = key.partition(".")[0]
    rounded = mean or measure in exact
    of_data = exact.get(measure, True) and not mean
    unknown = error is None and bound_of(scalar) is None and not rounded
    of_a_sample = scalar.get("sampling_status") or (sampled and of_data)
    if unknown or sampling == 0 or (of_a_sample and sampling is None):
        return None
    if kind == "standard_error" and error == sampling:
        error = None  # the same error, stated twice
    own = 0.0 if error is None else float(error)
    random = kind == "standard_error"
    return Uncertainty(
        0.0 if random else own,
        own if random else 0.0,
        float(sampling or 0.0),
        float(scalar.get("sampling_bias") or 0.0),
        stated=error is not None or sampling is not None,
    )


def worst_status(statuses: Sequence[str]) -> str:
    """The status of a number computed from several: the worst of theirs.

    Lower and upper bounds together give "unresolved", because the result is no bound.
    """
    wrong = sorted({*statuses} - {*SOUND}, key=lambda status: (status != Status.NOT_FINITE, status))
    if wrong:
        return wrong[0]
    bounds = {*statuses} - {Status.CONVERGED}
    return Status.UNRESOLVED if len(bounds) == 2 else next(iter(bounds), Status.CONVERGED)


def bound_of(scalar: Mapping[str, Any]) -> Bound | None:
    """The kind of bound that a scalar or summary is, by its status or error kind, else None."""
    for kind in (scalar.get("status"), scalar.get("error_kind")):
        if kind == "lower_bound" or kind == "upper_bound":
            return "lower_bound" if kind == "lower_bound" else "upper_bound"
    return None


def difference_bound(a: Bound | None, b: Bound | None) -> Bound | None:
    """The kind of bound that a − b is; "two_bounds" if the true value may lie on either side."""
    return _together(_signs(a), -_signs(b))


def ratio_bound(a: Bound | None, b: Bound | None, above: float, below: float) -> Bound | None:
    """The kind of bound that a/b is, at the values `above` and `below`."""
    if b is not None and (_signs(b) > 0) != (below > 0):
        return "two_bounds"  # b may be 0 or have the opposite sign
    return _together(_signs(a) * _sign(below), -_signs(b) * _sign(above))


def _signs(bound: Bound | None) -> int:
    """1 if the true value may be above, -1 if below, 0 otherwise."""
    return {"lower_bound": 1, "upper_bound": -1}.get(bound or "", 0)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _together(*ways: int) -> Bound | None:
    found = {way for way in ways if way}
    if len(found) == 2:
        return "two_bounds"
    return {1: "lower_bound", -1: "upper_bound"}[found.pop()] if found else None  # type: ignore[return-value]


def ratio_error(above: float, below: float, of_a: Uncertainty, of_b: Uncertainty) -> float:
    """The first-order error of above/below, limits and standard errors added."""
    ratio = abs(above / below)
    limit = of_a.limit + ratio * of_b.limit
    return (limit + math.hypot(of_a.standard, ratio * of_b.standard)) / abs(below)


def ratio_interval(
    above: float, below: float, of_a: Uncertainty, of_b: Uncertainty
) -> tuple[float, float] | None:
    """The interval of all r with above − r·below = 0 within errors; None if it is unbounded.

    Biases are subtracted. Without limits this is the interval of Fieller (1954).
    """
    above, below = above - of_a.bias, below - of_b.bias
    if not abs(below) > of_b.half_width:
        return None
    center = above / below
    width = of_a.half_width + abs(center) * of_b.half_width
    farthest = width / (abs(below) - of_b.half_width)

    def inside(distance: float, direction: int) -> bool:
        r = center + direction * distance
        standard = math.hypot(of_a.standard, r * of_b.standard)
        return distance * abs(below) <= of_a.limit + abs(r) * of_b.limit + WITHIN * standard

    ends = []
    for direction in (-1, 1):
        low, high = 0.0, farthest
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if inside(middle, direction) else (low, middle)
        ends.append(center + direction * high)
    return ends[0], ends[1]
