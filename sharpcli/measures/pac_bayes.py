"""PAC-Bayes flatness: how much noise on the weights the accuracy endures."""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import SharpError, setting
from sharpcli.measures.context import Context
from sharpcli.measures.rises import normal_draws
from sharpcli.measures.sampling import Sampled, degrees_of_freedom
from sharpcli.objective.objective import Objective
from sharpcli.objective.reliability import sampling_status, widened
from sharpcli.objective.shards import SHARDS, shards, share_left

__all__ = ["has_accuracy", "pac_bayes"]

# The variance that magnitude-aware noise has at a zero weight (Jiang et al. 2020, ε = 1e-3).
_LEAST_VARIANCE = 1e-6
# Random directions, the same for every σ, and values of σ that are tried: with both kinds of noise
# 2·8·9 + 1 forward passes, below 150.
_DRAWS, _TRIES = 8, 9
# Where the search for σ starts, and the factor by which it looks for a bracket.
_START, _FACTOR = {"isotropic": 0.05, "magnitude": 0.2}, 4.0
# The last try is beyond the others if σ is within this factor of their end.
_NEAR = 1.6
# Rows on which the names of a task's metrics are looked up.
_PROBE = 8
_METRIC = "accuracy"


def has_accuracy(context: Context) -> None:
    """Refuse a task without accuracy.

    Raises:
        SharpError: if the task's metrics have no `accuracy`.

    Cost: a forward pass of a few examples.
    """
    objective = context.objective
    rows = objective.rows.head(_PROBE)
    few = Objective(objective.network, rows, objective.fixed, alone=True)
    names, _ = few.moments(context.theta)
    if _METRIC not in names:
        raise SharpError(
            f"task '{objective.network.task.name}' has no accuracy, whose fall pac-bayes measures",
            "define `def metrics(outputs, batch)` with an 'accuracy', or measure "
            f"{setting('measures', ['low-pass'])}, the rise of the loss",
        )


def pac_bayes(context: Context) -> dict[str, Any]:
    """1/σ² with σ the standard deviation of noise that lowers the mean accuracy by 0.1.

    `isotropic`: u ∼ N(0, σ²I). `magnitude`: u ∼ N(0, diag(σ²θ² + 10⁻⁶)), which rescaling layers
    changes little. σ is sought by bisection of log σ on eight random directions, the same for every
    σ, and interpolated between the last two. Its interval comes from leaving out one direction at a
    time. Without a σ at which the accuracy falls that far there is no value.

    Cost: up to 145 forward passes; on a subset 18 more.
    Source: Jiang et al. 2020, measures pac-bayes-flatness and pac-bayes-mag-flatness.
    """
    drop = context.settings.options["accuracy_drop"]
    at_theta = _accuracy(context.objective, context.theta)
    found: dict[str, Any] = {}
    evaluations = 1
    for kind in ("isotropic", "magnitude"):
        curve = _Curve(context, kind, at_theta)
        _search(curve, drop)
        evaluations += curve.evaluations
        found[kind] = _entry(context, curve, drop, at_theta)
    return {
        "pac_bayes": {
            **found,
            "accuracy": at_theta,
            "accuracy_drop": drop,
            "draws": _DRAWS,
            "evaluations": evaluations,
        }
    }


@dataclass
class _Curve:
    """By how much the accuracy falls in each direction, at the values of log σ that were tried."""

    context: Context
    kind: str
    at_theta: float
    places: list[float] = field(default_factory=list)
    drops: list[list[float]] = field(default_factory=list)

    @property
    def evaluations(self) -> int:
        """Forward passes."""
        return _DRAWS * len(self.places)

    def shifts(self, log_sigma: float) -> Iterator[Tensor]:
        """The displacement (n,) in each direction."""
        sigma, theta = math.exp(log_sigma), self.context.theta
        for drawn in normal_draws(self.context, f"PAC-Bayes {self.kind}", _DRAWS):
            if self.kind == "isotropic":
                yield sigma * drawn
            else:
                yield ((sigma * theta).square() + _LEAST_VARIANCE).sqrt() * drawn

    def at(self, log_sigma: float) -> float:
        """The mean fall of the accuracy at a σ. Cost: a forward pass a direction."""
        theta, objective = self.context.theta, self.context.objective
        falls = [
            self.at_theta - _accuracy(objective, theta + shift) for shift in self.shifts(log_sigma)
        ]
        place = bisect.bisect(self.places, log_sigma)
        self.places.insert(place, log_sigma)
        self.drops.insert(place, falls)
        return statistics.fmean(falls)

    def crossing(self, drop: float, without: int | None = None) -> float | None:
        """The largest log σ below which the mean fall stays below `drop`, interpolated."""
        means = [
            statistics.fmean(fall for k, fall in enumerate(falls) if k != without)
            for falls in self.drops
        ]
        for i, mean in enumerate(means):
            if mean < drop:
                continue
            if i == 0:
                return None
            low, high = self.places[i - 1], self.places[i]
            return low + (high - low) * (drop - means[i - 1]) / (mean - means[i - 1])
        return None


def _search(curve: _Curve, drop: float) -> None:
    """Bracket the σ at which the accuracy falls by `drop`, then bisect log σ."""
    low = high = None
    place = math.log(_START[curve.kind])
    for number in range(_TRIES):
        if curve.at(place) < drop:
            low = place
        else:
            high = place
        curve.context.progress(number + 1, _TRIES)
        if low is None or high is None:
            place += math.log(_FACTOR) * (1 if high is None else -1)
        else:
            place = (low + high) / 2
            if number == _TRIES - 2 and (beyond := _beyond(curve, drop)) is not None:
                place = beyond


def _beyond(curve: _Curve, drop: float) -> float | None:
    """A σ outside those tried, if the crossing is so near their end that a jackknife leaves them.

    In some directions the accuracy falls later, and their crossing has to be interpolated too.
    """
    found = curve.crossing(drop)
    if found is not None and curve.places[-1] - found < math.log(_NEAR):
        return curve.places[-1] + math.log(2.0)
    if found is not None and found - curve.places[0] < math.log(_NEAR):
        return curve.places[0] - math.log(2.0)
    return None


def _entry(context: Context, curve: _Curve, drop: float, at_theta: float) -> dict[str, Any]:
    """1/σ² with its error, and σ with its interval."""
    log_sigma = curve.crossing(drop)
    if log_sigma is None:
        return scalar_fields(_without(curve, drop, at_theta), sigma=None, interval=None)
    sigma, value = math.exp(log_sigma), math.exp(-2 * log_sigma)
    error = _error(curve, drop, log_sigma)
    sampled = _sampled(context, curve, log_sigma)
    status, advice = Status.CONVERGED, None
    interval = None
    if error is None:
        status = Status.UNRESOLVED
        advice = "the random directions differ so much that the interval of σ is not known"
    else:
        reach = 1.96 * error
        interval = [math.exp(log_sigma - reach), math.exp(log_sigma + reach)]
    scalar = Scalar(
        value,
        None if error is None else 2 * value * error,
        None if error is None else "standard_error",
        status,
        advice,
        sampling_error=None if sampled.error is None else 2 * value * sampled.error,
        sampling_status=sampled.status,
    )
    return scalar_fields(scalar, sigma=sigma, interval=interval)


def _without(curve: _Curve, drop: float, at_theta: float) -> Scalar:
    """No value, and why."""
    smallest, largest = math.exp(curve.places[0]), math.exp(curve.places[-1])
    if statistics.fmean(curve.drops[0]) >= drop:
        advice = (
            f"the accuracy falls by more than {drop:g} at every σ from {smallest:.1g} on"
            + (", by the noise of variance 1e-6 alone" if curve.kind == "magnitude" else "")
            + f": raise {setting('accuracy_drop')}"
        )
    else:
        advice = (
            f"the accuracy, {at_theta:.3g} at θ, falls by less than {drop:g} up to σ = "
            f"{largest:.2g}: lower {setting('accuracy_drop')}"
        )
    return Scalar(None, status=Status.UNRESOLVED, advice=advice)


def _error(curve: _Curve, drop: float, log_sigma: float) -> float | None:
    """The standard error of log σ: a jackknife over directions, and what bisection left open."""
    others = [curve.crossing(drop, without=k) for k in range(_DRAWS)]
    known = [each for each in others if each is not None]
    if len(known) < _DRAWS:
        return None
    spread = math.sqrt((_DRAWS - 1) / _DRAWS * sum((x - log_sigma) ** 2 for x in known))
    above = bisect.bisect_left(curve.places, log_sigma)
    low, high = curve.places[max(above - 1, 0)], curve.places[min(above, len(curve.places) - 1)]
    return math.hypot(widened(spread, _DRAWS - 1.0), (high - low) / math.sqrt(12))


def _sampled(context: Context, curve: _Curve, log_sigma: float) -> Sampled:
    """The sampling error of log σ: that of the fall over shards, divided by the fall's slope.

    Cost: nine forward passes of a subset.
    """
    rows = context.objective.rows
    if not rows.sampled:
        return Sampled()
    slope = _slope(curve, log_sigma)
    if rows.count < 2 * SHARDS or not slope > 0 or rows.fixed_batch is not None:
        return Sampled(None, SamplingStatus.UNRELIABLE)
    falls = []
    for shard in shards(context.objective, context.seed):
        start = _accuracy(shard, context.theta)
        ends = [_accuracy(shard, context.theta + shift) for shift in curve.shifts(log_sigma)]
        falls.append(start - statistics.fmean(ends))
    values = torch.tensor(falls, dtype=torch.float64)
    error = math.sqrt(float(values.var()) / SHARDS * share_left(context.objective)) / slope
    error = widened(error, degrees_of_freedom(values, math.inf))
    return Sampled(error, sampling_status(rows.doubt, math.inf))


def _slope(curve: _Curve, log_sigma: float) -> float:
    """d(fall)/d(log σ): a line through the tries within a factor of two of σ."""
    near = [
        (place, statistics.fmean(falls))
        for place, falls in zip(curve.places, curve.drops, strict=True)
        if abs(place - log_sigma) <= math.log(2.0)
    ]
    if len(near) < 2:
        return 0.0
    x, y = (torch.tensor(each, dtype=torch.float64) for each in zip(*near, strict=True))
    off = x - x.mean()
    slope = (off @ (y - y.mean())) / (off @ off)
    return float(slope)


def _accuracy(objective: Objective, theta: Tensor) -> float:
    names, values = objective.moments(theta)
    total, weight, *_ = values[names.index(_METRIC)].tolist()
    return float(total) / float(weight)
