"""Both ends of the Hessian's spectrum, and its trace."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from ..linalg.trace import trace as estimate_trace
from ..objective import Objective
from ..operators import CurvatureOperator, SelfCheck, make_operator
from ..results import Scalar, scalar_fields
from .context import Context

__all__ = ["hessian", "suspicion", "trace"]

# Shards whose Rayleigh quotients tell what sampling does to an eigenvalue: enough for a standard
# error that is itself good to about 20 %.
_SHARDS = 16


def hessian(context: Context) -> dict[str, Any]:
    """λ1 ≥ … ≥ λk and λmin of ∇²L(θ), each with its residual ‖Hv − λv‖; λ1/λ5.

    Converged means a residual of at most tol·|λ1|. Where a subset was measured, the sampling error
    of λi is the standard error over shards of vᵢᵀH_s vᵢ, its first-order change. Cost: 2 to 4
    products a pair, a product about 1.5 (MLP) to 2.8 (deep networks) gradients. Invariant to
    rotations of θ, not to rescaling. Source: block Lanczos (Golub & Underwood 1977) with thick
    restarts (Wu & Simon 2000).
    """
    found = context.eigenvalues
    sampling = _sampling_errors(context, found.vectors)
    doubt = suspicion(context.self_check)

    def scalar(value: float, error: float, met: bool, sampled: float | None) -> Scalar:
        error = math.hypot(error, context.hessian.error)
        status, advice = doubt or _verdict(context, found.largest, error, met)
        return Scalar(value, error, "residual", status, advice, sampled)

    top = [
        scalar(float(value), float(error), met, sampled)
        for value, error, met, sampled in zip(
            found.largest, found.largest_errors, found.largest_converged, sampling, strict=True
        )
    ]
    numbers: dict[str, Any] = {"eigenvalues": top}
    if len(found.smallest):
        value, error = float(found.smallest[0]), float(found.smallest_errors[0])
        if context.settings.curvature.operator != "hessian":
            value = max(value, 0.0)  # the others have no negative eigenvalue, but for rounding
        numbers["smallest"] = scalar(value, error, found.smallest_converged[0], None)
    else:
        numbers["smallest"] = top[-1]  # every eigenvalue was asked for
    if len(top) >= 5:
        numbers["ratio_1_5"] = _ratio(top[0], top[4])
    numbers |= {
        "products": found.products,
        "passes": found.passes,
        "size": context.objective.size,
        "operator": context.settings.curvature.operator,
    }
    if context.coarse:
        numbers["coarse"] = {
            "examples": context.coarse.examples,
            "products": context.coarse.products,
        }
    return {"hessian": numbers}


def trace(context: Context) -> dict[str, Any]:
    """Σ λ = tr ∇²L(θ), with the standard error of its random part.

    Exact on the subspace that the eigenvalues built (or a sketch of 20 products), random signs on
    the rest. Cost: 6 products or more. Source: Hutch++ (Meyer et al. 2021). The sampling error of
    a subset is not in it.
    """
    found = estimate_trace(
        context.hessian,
        context.krylov,
        relative_error=context.settings.relative_error,
        max_probes=context.settings.max_products or 100,
        seed=context.seed + 1,
        progress=context.progress,
    )
    status, advice = ("converged", None)
    if not found.converged:
        status, advice = (
            "max_products",
            "the standard error is above --relative-error: raise --max-products",
        )
    status, advice = suspicion(context.self_check) or (status, advice)
    scalar = Scalar(found.value, found.standard_error, "standard_error", status, advice)
    return {"trace": scalar_fields(scalar, products=found.products)}


def suspicion(check: SelfCheck | None) -> tuple[str, str] | None:
    """Status and advice of every number where the second derivatives failed their check."""
    if check is None or check.passed:
        return None
    return "suspect", (
        "the second derivatives fail a float64 self-check (asymmetry "
        f"{check.asymmetry:.1e}, difference to a finite difference {check.difference:.1e}): an "
        "operation of the model has a wrong or no second derivative; --hvp finite-difference does "
        "without"
    )


def _verdict(
    context: Context, largest: torch.Tensor, error: float, met: bool
) -> tuple[str, str | None]:
    if not met:
        return "max_products", "the residual is above --tol: raise --max-products or --tol"
    limit = context.settings.tol * float(largest[0].abs())
    if context.hessian.error > limit > 0:
        return "precision", (
            "finite differences change with their step by more than --tol: the gradient jumps near "
            "θ, or the model runs in float32 only"
        )
    if error > limit and context.theta.dtype != torch.float64 and limit > 0:
        return "precision", "rounding keeps the error above --tol: use --dtype float64"
    return "converged", None


def _ratio(first: Scalar, fifth: Scalar) -> Scalar:
    """λ1/λ5 with the residuals carried through to first order."""
    if not first.value or not fifth.value:
        return Scalar(None, status="not_finite", advice="λ5 is zero")
    value = first.value / fifth.value
    error = abs(value) * math.hypot(
        (first.error or 0.0) / first.value, (fifth.error or 0.0) / fifth.value
    )
    worst = first if first.status != "converged" else fifth
    return Scalar(value, error, "residual", worst.status, worst.advice)


def _sampling_errors(context: Context, vectors: torch.Tensor) -> list[float | None]:
    rows = context.objective.rows
    if not rows.sampled:
        return [None] * len(vectors)
    if rows.count < 2 * _SHARDS:
        context.warnings.append(
            f"{rows.count} examples are too few to tell the sampling error of the eigenvalues: "
            f"take {2 * _SHARDS} or more"
        )
        return [None] * len(vectors)
    quotients = torch.stack(_over_shards(context, lambda h: ((h @ vectors.T).T * vectors).sum(1)))
    correction = 1 - rows.count / rows.total
    errors = (quotients.double().var(0) / len(quotients) * correction).sqrt()
    return [float(error) for error in errors]


def _over_shards(
    context: Context, function: Callable[[CurvatureOperator], torch.Tensor]
) -> list[torch.Tensor]:
    """A function of each shard's own Hessian."""
    objective, found = context.objective, []
    edges = torch.linspace(0, objective.rows.count, _SHARDS + 1).long().tolist()
    order = torch.randperm(
        objective.rows.count, generator=torch.Generator().manual_seed(context.seed)
    )
    for start, stop in itertools.pairwise(edges):
        rows = objective.rows.take(order[start:stop])
        shard = Objective(objective.network, rows, objective.fixed)
        operator = make_operator(shard, context.theta, context.settings.curvature)
        found.append(function(operator))
        operator.release()
    return found
