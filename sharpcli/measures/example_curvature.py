"""The sampling error of an eigenvalue from the curvature of each example along its vector."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sharpcli.curvature import in_float64
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import SamplingStatus
from sharpcli.errors import SharpError
from sharpcli.objective.objective import Objective
from sharpcli.objective.reliability import carriers, sampling_status, widened

__all__ = ["with_sampling_error"]

# The mean loss changes by this share between the middle and the ends of the step. On the text GPT
# the error is the same for steps from a third to three times as long.
_CHANGE = 1.5e-3
# And in float64, where rounding allows it: along the sharpest direction of an untrained GPT the
# longer step gives 5.6 for 7.1.
_SMALL_CHANGE = 1.5e-5
# A mean of the examples' curvatures that is farther from the eigenvalue, as a share of it, shows
# rounding or kinks.
_AGREE = 0.1


def with_sampling_error(
    scalar: Scalar,
    objective: Objective,
    theta: Tensor,
    direction: Tensor,
    searched: Tensor | None = None,
) -> Scalar:
    """An eigenvalue's curvature on a sample, with the error that the choice of its examples makes.

    The error is the first-order one, as in `hessian`: the standard error of the mean of uᵀHᵢu, from
    second differences of each example's loss along u. The examples in which u was searched have a
    larger curvature along it than all others, because u fits their noise too. So the value is the
    mean over the whole sample, in which they are few.

    Args:
        scalar: λ = uᵀHu of the examples in which u was searched.
        objective: the mean loss of the sample.
        theta: θ (n,).
        direction: u (n,), the unit eigenvector; with a preconditioner P, P^(-1/2) times it.
        searched: the numbers of those examples in the sample; None for all.

    Cost: three forward passes, and three in float64 if rounding or kinks show.
    """
    rows, value = objective.rows, scalar.value
    if not rows.sampled or value is None:
        return scalar
    unknown = replace(scalar, sampling_status=SamplingStatus.UNRELIABLE)
    if rows.count < 2 or not value > 0:
        return unknown
    chosen = torch.arange(rows.count) if searched is None else searched
    try:
        own, weights = _curvatures(objective, theta, direction, value)
        agree = _agree(own[chosen], weights[chosen], value)
        if not agree:
            double, there = in_float64(objective, theta)
            change = _SMALL_CHANGE if there.dtype == torch.float64 else _CHANGE
            own, weights = _curvatures(double, there, direction.to(there), value, change)
            agree = _agree(own[chosen], weights[chosen], value)
    except SharpError:  # the loss gives one sum for a batch
        return unknown
    if agree:
        # Exact where u was searched, by differences in the rest.
        exact = value * float(weights[chosen].sum()) - float(own[chosen].sum())
        value = (float(own.sum()) + exact) / float(weights.sum())
    off = (own - value * weights) / weights.mean()
    off -= off.mean()
    carried = carriers(float(off.square().sum()), float(off.pow(4).sum()), rows.count)
    error = float(off.var() / rows.count * (1 - rows.count / rows.total)) ** 0.5
    error = widened(error, min(rows.count - 1.0, 2 * carried))
    if not agree or not math.isfinite(error):
        return replace(unknown, sampling_error=error if math.isfinite(error) else None)
    status = sampling_status(rows.doubt, carried)
    return replace(scalar, value=value, sampling_error=error, sampling_status=status)


def _curvatures(
    objective: Objective, theta: Tensor, direction: Tensor, value: float, change: float = _CHANGE
) -> tuple[Tensor, Tensor]:
    """d²/dt² of the loss of each example at θ + tu, and its weight (N,)."""
    here, weights = objective.per_example_losses(theta)
    mean = abs(float(here.sum() / weights.sum()))
    step = (2 * change * mean / value) ** 0.5
    ends = [
        objective.per_example_losses(theta.add(direction, alpha=way * step))[0] for way in (1, -1)
    ]
    found: Tensor = (ends[0] - 2 * here + ends[1]) / step**2
    return found.double().cpu(), weights.double().cpu()


def _agree(own: Tensor, weights: Tensor, value: float) -> bool:
    return abs(float(own.sum() / weights.sum()) - value) <= _AGREE * value
