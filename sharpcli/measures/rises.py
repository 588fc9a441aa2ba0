"""How far the loss rises from θ to other points, with the errors of sampling and rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import SharpError, setting
from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.context import Context
from sharpcli.measures.measure import marked
from sharpcli.measures.rounding import with_rounding
from sharpcli.measures.sampling import Sampled
from sharpcli.objective.checks import SMALLEST_SOUND, check_finite
from sharpcli.objective.means import mean_of, moments
from sharpcli.objective.reliability import sampling_status, widened
from sharpcli.runtime.randomness import own_generator

__all__ = [
    "MeanRise",
    "Rise",
    "Surroundings",
    "estimated",
    "mean_rise",
    "normal_draws",
    "signed_draws",
    "vanished",
]


@dataclass(frozen=True)
class Rise:
    """L(θ + δ) − L(θ), and the same of each example's sum (N,) if a subset was measured."""

    value: float
    changes: Tensor | None


class Surroundings:
    """The loss at points around θ relative to that at θ.

    On a subset each example's loss is kept, so that the sampling error is that of paired losses.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._objective = context, context.objective

    @cached_property
    def _base(self) -> tuple[Tensor, Tensor] | None:
        """Each example's loss at θ and its weight; None if nothing is to be paired."""
        if not self._objective.rows.sampled:
            return None
        try:
            return self._objective.per_example_losses(self._context.theta)
        except SharpError:  # the loss gives one sum for a batch
            return None

    @cached_property
    def loss(self) -> float:
        """L(θ), finite. Cost: a forward pass, or none if the gradient is known."""
        known = self._context.known("value_and_gradient")
        if self._base is not None:
            sums, weights = self._base
            loss = float(sums.sum() / weights.sum())
        else:
            loss = known[0] if known else self._objective.loss(self._context.theta)
        check_finite(self._objective, loss, self._context.theta)
        return loss

    @cached_property
    def rounding(self) -> float:
        """The error that arithmetic leaves in the difference of two losses."""
        return 2 * self._context.rounding.loss

    def rise(self, shift: Tensor) -> Rise:
        """L(θ + shift) − L(θ) for a shift (n,). Cost: one forward pass."""
        there = self._context.theta + shift
        loss = self.loss
        if self._base is None:
            return Rise(self._objective.loss(there) - loss, None)
        sums, weights = self._base
        moved, _ = self._objective.per_example_losses(there)
        return Rise(float((moved - sums).sum() / weights.sum()), moved - sums)

    def sampled(self, changes: Tensor | None) -> Sampled:
        """The sampling error of a mean change, from each example's change (N,)."""
        rows = self._objective.rows
        if not rows.sampled:
            return Sampled()
        if self._base is None or changes is None or rows.count < 2:
            return Sampled(None, SamplingStatus.UNRELIABLE)
        mean = mean_of(moments(changes, self._base[1]).tolist(), rows.total, sampled=True)
        return Sampled(mean.sampling_error, sampling_status(rows.doubt, mean.carriers))

    def sampled_loss(self, changes: Tensor | None) -> Sampled:
        """The sampling error of L(θ) and a mean change together."""
        if self._base is None or changes is None:
            return self.sampled(None)
        return self.sampled(self._base[0] + changes)

    def scalar(self, rise: Rise, rounding: float) -> Scalar:
        """A single rise with its rounding and its sampling error."""
        sampled = self.sampled(rise.changes)
        wide = self._objective.network.compute == torch.float64
        return with_rounding(rise.value, rounding, sampled.error, sampled.status, wide=wide)


@dataclass(frozen=True)
class MeanRise:
    """The mean rise over random displacements, its standard error, and its cost."""

    value: float
    error: float
    sampled: Sampled
    rounding: float
    evaluations: int


def mean_rise(around: Surroundings, context: Context, shifts: Iterator[Tensor]) -> MeanRise:
    """The mean of L(θ + δ) − L(θ) over random displacements δ (n,) with mean zero.

    The gradient's part gᵀδ of each rise is subtracted: its mean is known to be zero, so the
    estimate stays unbiased, and only curvature is left to scatter. The standard error is widened
    for few draws, so that 1.96 times it is Student's 95 % interval.

    Cost: one forward pass a displacement, and one gradient.
    """
    _, gradient = context.value_and_gradient
    rises: list[float] = []
    total: Tensor | None = None
    for shift in shifts:
        rise = around.rise(shift)
        rises.append(rise.value - float(dots(gradient[None], shift[None])))
        if rise.changes is not None:
            total = rise.changes if total is None else total + rise.changes
    values = torch.tensor(rises, dtype=torch.float64)
    count = len(rises)
    error = float(values.std()) / math.sqrt(count) if count > 1 else math.inf
    return MeanRise(
        float(values.mean()),
        widened(error, count - 1.0),
        around.sampled(None if total is None else total / count),
        around.rounding,
        count + 1,
    )


def estimated(
    value: float, error: float, rounding: float, sampled: Sampled, more: str, *, wide: bool
) -> Scalar:
    """A random estimate with its standard error; `more` names the setting that lowers the error.

    It is unresolved if its own 95 % interval holds 0.
    """
    status, advice = Status.CONVERGED, None
    if not 1.96 * error < abs(value):
        status = Status.UNRESOLVED
        advice = f"the random draws do not tell it from 0: raise {setting(more)}"
    plain = with_rounding(value, rounding, None, wide=wide)
    if plain.status != Status.CONVERGED:
        status, advice = plain.status, plain.advice
    both = math.hypot(error, rounding)
    return Scalar(
        value,
        both if math.isfinite(both) else None,
        "standard_error",
        status,
        advice,
        sampling_error=sampled.error,
        sampling_status=sampled.status,
    )


def normal_draws(context: Context, purpose: str, count: int) -> Iterator[Tensor]:
    """Standard normal vectors (n,), the same for every precision and device."""
    generator = own_generator(purpose, context.seed)
    for done in range(count):
        context.progress(done, count)
        yield torch.randn(context.objective.size, generator=generator).to(context.theta)


def signed_draws(context: Context, purpose: str, count: int) -> Iterator[Tensor]:
    """Vectors (n,) uniform over [−1, 1]ⁿ, the same for every precision and device."""
    generator = own_generator(purpose, context.seed)
    for done in range(count):
        context.progress(done, count)
        drawn = torch.rand(context.objective.size, generator=generator)
        yield (2 * drawn - 1).to(context.theta)


def vanished(numbers: dict[str, Any], split: str | None, advice: str) -> Any:
    """Mark the numbers that are no larger than a loss that float64 resolves."""
    found = {}
    for key, each in numbers.items():
        scalar = each if isinstance(each, Scalar) else None
        value = scalar.value if scalar else each.get("value") if isinstance(each, dict) else None
        small = value is not None and abs(value) < SMALLEST_SOUND
        found[key] = marked(each, split, advice) if small else each
    return found
