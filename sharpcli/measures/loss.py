"""Loss and metrics on both splits, and the generalization gap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sharpcli.documents.statuses import SamplingStatus
from sharpcli.measures.context import Context
from sharpcli.measures.rounding import with_rounding
from sharpcli.measures.sampling import means_by_shard, too_few
from sharpcli.objective.checks import check_finite
from sharpcli.objective.means import Mean
from sharpcli.objective.objective import Objective
from sharpcli.objective.reliability import sampling_status

__all__ = ["loss"]


def loss(context: Context) -> dict[str, Any]:
    """L and each metric m on train and test, and the gap test − train.

    A split's number is a mean over its examples; on a subset it has the standard error of sampling.
    The gap's error adds the two in quadrature, and is unreliable if one of them is. A loss that is
    not finite is an error that names the first module with such an output.

    Cost: one forward pass a split, and another one of a sample, for its shards.
    """
    for name, objective in context.splits.items():
        check_finite(objective, context.evaluations[name].loss.value, context.theta)
        if objective.rows.sampled and objective.rows.count < 2:
            context.warnings.append(
                f"{too_few(objective.rows.count)} to tell the sampling error of the loss: take 2 "
                "or more"
            )
    means = {name: evaluation.loss for name, evaluation in context.evaluations.items()}
    by_shard = {name: (context.split, each) for name, each in means_by_shard(context).items()}
    found = {"loss": _both(means, context.splits, by_shard.get("loss"), context.rounding.loss)}
    found["loss"]["evaluations"] = len(context.splits)
    for metric in next(iter(context.evaluations.values())).metrics:
        means = {k: e.metrics[metric] for k, e in context.evaluations.items()}
        found[metric] = _both(means, context.splits, by_shard.get(metric))
    return found


def _both(
    means: Mapping[str, Mean],
    splits: Mapping[str, Objective],
    by_shard: tuple[str | None, list[float]] | None,
    rounding: float = 0.0,
) -> dict[str, Any]:
    """A number of each split and its gap; `by_shard` is the sampled split and its values."""
    wide = next(iter(splits.values())).network.compute == torch.float64
    numbers: dict[str, Any] = {
        name: with_rounding(
            mean.value, rounding, mean.sampling_error, _status(mean, splits[name]), wide=wide
        )
        for name, mean in means.items()
    }
    measured, shards = by_shard or (None, None)
    if shards and measured:
        numbers[measured] = replace(numbers[measured], shards=shards)
    if {"train", "test"} <= set(means):
        train, test = numbers["train"], numbers["test"]
        errors = [s.sampling_error for s in (train, test) if s.sampling_error is not None]
        error = math.hypot(*errors) if errors else None
        status = train.sampling_status or test.sampling_status
        gap = test.value - train.value
        numbers["gap"] = with_rounding(gap, 2 * rounding, error, status, wide=wide)
        if shards and len(errors) == 1:  # the other split was measured completely
            whole = {name: [each.value] * len(shards) for name, each in numbers.items()}
            both = whole | {measured: shards}
            by_difference = [b - a for a, b in zip(both["train"], both["test"], strict=True)]
            numbers["gap"] = replace(numbers["gap"], shards=by_difference)
    return numbers


def _status(mean: Mean, objective: Objective) -> SamplingStatus | None:
    rows = objective.rows
    if not rows.sampled:
        return None
    return sampling_status(rows.doubt, mean.carriers)
