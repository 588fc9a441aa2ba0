"""Loss and metrics on both splits, and the generalization gap."""

from __future__ import annotations

import math
from typing import Any

from ..diagnosis import check_finite
from ..moments import Mean
from ..results import Scalar
from .context import Context
from .rounding import with_rounding
from .sampling import too_few

__all__ = ["loss"]


def loss(context: Context) -> dict[str, Any]:
    """L and each metric m on train and test, and the gap test − train.

    A split's number is a mean over its examples; it carries the standard error of sampling where a
    subset was measured. The gap's error adds the two in quadrature. Cost: one forward pass a split.
    Raises `SharpError` naming the first module whose output is not finite.
    """
    for name, objective in context.splits.items():
        check_finite(objective, context.evaluations[name].loss.value, context.theta)
        if objective.rows.sampled and objective.rows.count < 2:
            context.warnings.append(
                f"{too_few(objective.rows.count)} to tell the sampling error of the loss: take 2 "
                "or more"
            )
    found = {
        "loss": _both({k: e.loss for k, e in context.evaluations.items()}, context.rounding.loss)
    }
    found["loss"]["evaluations"] = len(context.splits)
    for metric in next(iter(context.evaluations.values())).metrics:
        found[metric] = _both({k: e.metrics[metric] for k, e in context.evaluations.items()})
    return found


def _both(means: dict[str, Mean], rounding: float = 0.0) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: _scalar(mean, rounding) for name, mean in means.items()}
    if {"train", "test"} <= set(means):
        train, test = means["train"], means["test"]
        sampled = [m.sampling_error for m in (train, test) if m.sampling_error is not None]
        error = math.hypot(*sampled) if sampled else None
        numbers["gap"] = _scalar(Mean(test.value - train.value, error), 2 * rounding)
    return numbers


def _scalar(mean: Mean, rounding: float) -> Scalar:
    return with_rounding(mean.value, rounding, mean.sampling_error)
