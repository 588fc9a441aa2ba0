"""Adaptive sharpness: the worst and the average rise of the loss relative to each weight."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import UsageError, setting
from sharpcli.linalg.ball import Norm
from sharpcli.measures.ball_search import Region, Worst, selection_bias, worst, worst_of_shards
from sharpcli.measures.box_search import Searches
from sharpcli.measures.context import Context
from sharpcli.measures.rises import (
    Surroundings,
    estimated,
    mean_rise,
    normal_draws,
    signed_draws,
)
from sharpcli.measures.sampling import Sampled, degrees_of_freedom
from sharpcli.objective.reliability import sampling_status, widened

__all__ = ["adaptive_sharpness"]

_NORMS: tuple[Norm, ...] = ("linf", "l2")
# With fewer shards than this the scatter over them says little of a sampling error.
_FEWEST_SHARDS = 4


def adaptive_sharpness(context: Context) -> dict[str, Any]:
    """`worst`: max L(θ + δ) − L(θ) over ‖δ ⊘ c‖ ≤ ρ. `average`: its mean over random δ.

    c = |θ| by default, or 1. The mean is over δ ∼ N(0, ρ² diag c²) (`l2`) or uniform over
    [−ρc, ρc] (`linf`), with its standard error. A worst case is only bounded from below: the
    largest rise counts that Auto-PGD or another maximiser finds, and each one's is reported. With
    m, `worst` is the mean over shards of m examples of each shard's own maximum. With c = |θ| all
    four are invariant to rescaling weights that leaves the function unchanged.

    On a subset the sampling error of a worst case is that of the losses at the point found, and the
    sampling bias is what choosing that point on the subset adds.

    Cost: about 70 gradients for each worst case, with m as many again, and 20 forward passes for
    each average.
    Source: Andriushchenko et al. 2023; Kwon et al. 2021; Auto-PGD, Croce & Hein 2020.
    """
    options = context.settings.options
    adaptive = options["adaptive_scale"] == "weights"
    around = Surroundings(context)
    # Which maximisers ε-sharpness uses is a setting of its own.
    own = copy.copy(context)
    own.settings = replace(context.settings, maximizer="both")
    searches = Searches(own)
    found: dict[str, Any] = {}
    for norm in _NORMS:
        region = Region(norm, options[f"worst_{norm}_rho"], adaptive)
        m = options["m_sharpness"]
        if m and m < context.objective.rows.count:
            found[f"worst_{norm}"] = _worst_by_shard(context, searches, region, m)
        else:
            found[f"worst_{norm}"] = _worst(context, searches, around, region)
    for norm in _NORMS:
        region = Region(norm, options[f"average_{norm}_rho"], adaptive)
        found[f"average_{norm}"] = _average(context, around, region, options["average_draws"])
    return {"adaptive_sharpness": found}


def _worst(
    context: Context, searches: Searches, around: Surroundings, region: Region
) -> dict[str, Any]:
    """The worst case over all data at once."""
    found = worst(searches, region)
    shift = region.radius(context.theta) * found.point.to(context.theta)
    sampled, bias = Sampled(), None
    if context.objective.rows.sampled:
        sampled = around.sampled(around.rise(shift).changes)
    if sampled.error is not None:
        bias = selection_bias(context, region, found.point)
        sampled = replace(sampled, error=math.hypot(sampled.error, bias))
    scalar = _bound(context, found.value, found.resolved, sampled, bias)
    return scalar_fields(
        scalar, rho=region.rho, by_maximizer=found.rises, evaluations=found.evaluations
    )


def _worst_by_shard(context: Context, searches: Searches, region: Region, m: int) -> dict[str, Any]:
    """The mean over shards of about m examples of each shard's own worst case."""
    rows = context.objective.rows
    if rows.fixed_batch is not None:
        raise UsageError(
            f"{setting('m_sharpness', m)}: the loss is defined on batches of {rows.fixed_batch}, "
            "which shards would change",
            f"leave it out: {setting('m_sharpness', 0)}",
        )
    whole = worst(searches, region)
    found = worst_of_shards(context, region, m, whole.point)
    values = torch.tensor([each.value for each in found], dtype=torch.float64)
    by_name = {
        name: statistics.fmean(each.rises[name] for each in found) for name in found[0].rises
    }
    return scalar_fields(
        _bound(
            context,
            float(values.mean()),
            all(each.resolved for each in found),
            _over_shards(context, values),
            None,
        ),
        rho=region.rho,
        by_maximizer=by_name,
        shards=len(found),
        m=m,
        evaluations=whole.evaluations + _passes(found),
    )


def _over_shards(context: Context, values: Tensor) -> Sampled:
    """The sampling error of a mean over shards, each with its own maximum.

    Other shards of the same examples have other maxima, so there is no finite-population factor.
    """
    rows = context.objective.rows
    if not rows.sampled:
        return Sampled()
    if len(values) < _FEWEST_SHARDS:
        return Sampled(None, SamplingStatus.UNRELIABLE)
    error = math.sqrt(float(values.var()) / len(values))
    error = widened(error, degrees_of_freedom(values, context.carriers))
    return Sampled(error, sampling_status(rows.doubt, context.carriers))


def _passes(found: list[Worst]) -> int:
    """Gradients on shards as gradients over all data, rounded up."""
    return -(-sum(each.evaluations for each in found) // len(found))


def _bound(
    context: Context, value: float, resolved: bool, sampled: Sampled, bias: float | None
) -> Scalar:
    wide = context.objective.network.compute == torch.float64
    advice = None
    if not resolved:
        advice = (
            "the loss rises by no more than its rounding: take a larger radius"
            if wide
            else "the run's precision does not resolve how the loss rises here: use "
            f"{setting('dtype', 'float64')}"
        )
    return Scalar(
        value,
        None,
        "lower_bound",
        Status.LOWER_BOUND if resolved else Status.PRECISION,
        advice,
        sampling_error=sampled.error,
        sampling_bias=bias,
        sampling_status=sampled.status,
    )


def _average(context: Context, around: Surroundings, region: Region, count: int) -> dict[str, Any]:
    """The mean rise over random displacements."""
    radius = region.radius(context.theta)
    draws = normal_draws if region.norm == "l2" else signed_draws

    def shifts() -> Iterator[Tensor]:
        for drawn in draws(context, f"average sharpness {region.norm}", count):
            yield radius * drawn

    found = mean_rise(around, context, shifts())
    scalar = estimated(
        found.value,
        found.error,
        found.rounding,
        found.sampled,
        "average_draws",
        wide=context.objective.network.compute == torch.float64,
    )
    return scalar_fields(scalar, rho=region.rho, draws=count, evaluations=found.evaluations)
