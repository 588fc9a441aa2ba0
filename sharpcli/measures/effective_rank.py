"""How many eigenvalues of the Hessian are large."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from sharpcli.curvature.memory_plan import share_memory_of_probes
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import setting
from sharpcli.linalg.bulk import bulk
from sharpcli.linalg.quadrature import Quadrature, choose_probes, quadrature
from sharpcli.measures.context import Context
from sharpcli.measures.hessian import suspicion
from sharpcli.runtime.progress import foretelling
from sharpcli.settings.curvature import SpectrumSettings

__all__ = ["effective_rank"]

# λ1 is known well enough for a ratio if its error is a smaller share of it, as in `sharp spectrum`.
_KNOWN = 0.05


def effective_rank(context: Context) -> dict[str, Any]:
    """Σ max(λ, 0)/λ1, and the number of eigenvalues above the bulk.

    The first is the effective rank of the Hessian's positive part: k if k equal eigenvalues have
    all of the curvature. Its error is that of the sum over random probes and that of λ1. The second
    counts the outliers of the spectral density, as `sharp spectrum` does, and is exact where the
    bulk's edge is resolved. On a sample neither has a sampling error; `sharp spectrum` gives one.

    Cost: that of `sharp spectrum`: 80 products for each of 2 to 40 probes, or one for each
    parameter if that is less.
    Source: Keskar et al. 2017 (a sharp minimum has a significant number of large positive
    eigenvalues); the ratio is the intrinsic dimension of Tropp 2015, definition 7.1.1.
    """
    objective, settings = context.objective, context.settings.curvature
    probes, steps = choose_probes(objective.size), SpectrumSettings().steps
    memory = share_memory_of_probes(objective, context.theta, settings, probes, steps)
    operator = context.hessian
    found = quadrature(
        operator,
        probes=probes,
        steps=steps,
        seed=context.seed,
        together=memory.block,
        most_known=memory.known,
        basis_device=memory.device,
        rounding=context.rounding.of_norm,
        progress=foretelling(context.progress, context.notes, memory.at_most),
    )
    numbers = {"value": _ratio(found), "outliers": _outliers(found)}
    doubt = suspicion(context.self_check)
    for name, scalar in numbers.items():
        if doubt is not None:
            scalar = replace(scalar, status=doubt[0], advice=doubt[1])
        if objective.rows.sampled:
            scalar = replace(scalar, sampling_status=SamplingStatus.UNRELIABLE)
        numbers[name] = scalar
    rank = vars(numbers["value"])
    return {
        "effective_rank": {
            **rank,
            "outliers": numbers["outliers"],
            "products": found.products,
        }
    }


def _ratio(found: Quadrature) -> Scalar:
    """Σ max(λ, 0)/λ1 with its error."""
    known = float(found.known.clamp_min(0).sum())
    sums = [found.size * float(probe.weights @ probe.values.clamp_min(0)) for probe in found.rest]
    own = torch.tensor(sums, dtype=torch.float64)
    total = known + (float(own.mean()) if len(own) else 0.0)
    error = float(found.top_errors.sum() + found.bottom_errors.sum())
    if len(own) > 1:
        error = math.hypot(error, float(own.std()) / math.sqrt(len(own)))
    (high, high_error), _ = found.ends()
    if high <= 0:
        return Scalar(None, status=Status.UNRESOLVED, advice="no eigenvalue is above zero")
    value = total / high
    error = math.hypot(error, value * high_error) / high
    kind: Any = "standard_error" if len(own) else "residual"
    if high_error > _KNOWN * high:
        advice = "the steps were too few to find λ1: see `sharp spectrum` with more"
        return Scalar(value, error, kind, Status.MAX_PRODUCTS, advice)
    return Scalar(value, error, kind)


def _outliers(found: Quadrature) -> Scalar:
    """The number of eigenvalues above the bulk."""
    above = bulk(found)
    if above.resolved:
        return Scalar(len(above.outliers))
    advice = (
        "where the bulk ends is not known: `sharp spectrum` with more "
        f"{setting('probes' if above.copies else 'steps')} may tell"
    )
    return Scalar(None, status=Status.UNRESOLVED, advice=advice)
