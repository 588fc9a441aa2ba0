"""Both ends of the Hessian's spectrum, and its trace."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from ..linalg.trace import trace as estimate_trace
from ..operators import SelfCheck
from ..results import Scalar, scalar_fields
from .context import Context
from .sampling import Sampled, eigenvalue_errors, trace_error

__all__ = ["at_most", "hessian", "suspicion", "trace"]


def hessian(context: Context) -> dict[str, Any]:
    """λ1 ≥ … ≥ λk and λmin of ∇²L(θ), each with its residual ‖Hv − λv‖; λ1/λ5.

    Converged means a residual of at most tol·|λ1|; λmin is an upper bound where its residual is
    not small against itself, as that of a mixture of the many curvatures near zero. Where a subset
    was measured, the sampling error of λi is the standard error over shards of vᵢᵀH_s vᵢ, its
    first-order change, together with the second-order one. Cost: 30 to 60 products, a product about
    1.5 (MLP) to 2.8 (deep networks) gradients; on a subset one more a number. Invariant to
    rotations of θ, not to rescaling. Source: block Lanczos (Golub & Underwood 1977) with thick
    restarts (Wu & Simon 2000).
    """
    found = context.eigenvalues
    sampled = eigenvalue_errors(context, found.krylov, len(found.largest))
    doubt = suspicion(context.self_check)

    def scalar(value: float, error: float, met: bool, sampling: Sampled) -> Scalar:
        error = math.hypot(error, context.hessian.error)
        status, advice = doubt or _verdict(context, found.largest, error, met)
        return _with_sampling(Scalar(value, error, "residual", status, advice), sampling)

    top = [
        scalar(float(value), float(error), met, each)
        for value, error, met, each in zip(
            found.largest,
            found.largest_errors,
            found.largest_converged,
            sampled.largest,
            strict=True,
        )
    ]
    numbers: dict[str, Any] = {"eigenvalues": top}
    if len(found.smallest):
        value, error = float(found.smallest[0]), float(found.smallest_errors[0])
        if context.settings.curvature.operator != "hessian":
            value = max(value, 0.0)  # the others have no negative eigenvalue, but for rounding
        lowest = scalar(value, error, found.smallest_converged[0], sampled.smallest)
        if context.settings.curvature.operator == "hessian" and not found.smallest_settled[0]:
            lowest = at_most(lowest)
        numbers["smallest"] = lowest
    else:
        numbers["smallest"] = top[-1]  # every eigenvalue was asked for
    if len(top) >= 5:
        numbers["ratio_1_5"] = _ratio(top[0], top[4], sampled.ratio)
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
    the rest. Cost: 6 products or more, and 4 on a subset, for the sampling error: the standard
    error over shards of their traces. Source: Hutch++ (Meyer et al. 2021).
    """
    krylov = context.krylov
    found = estimate_trace(
        context.hessian,
        krylov,
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
    sampled = trace_error(context, krylov)
    scalar = Scalar(found.value, found.standard_error, "standard_error", status, advice)
    return {"trace": scalar_fields(_with_sampling(scalar, sampled), products=found.products)}


def at_most(lowest: Scalar) -> Scalar:
    """A smallest eigenvalue that others may lie below: the true one is this or less."""
    if lowest.status != "converged":
        return lowest
    return replace(lowest, error=None, error_kind="upper_bound", status="upper_bound")


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


def _with_sampling(scalar: Scalar, sampled: Sampled) -> Scalar:
    return replace(scalar, sampling_error=sampled.error, sampling_status=sampled.status)


def _ratio(first: Scalar, fifth: Scalar, sampled: Sampled) -> Scalar:
    """λ1/λ5 with residuals, and its `sampled` share of error, carried through to first order."""
    if not first.value or not fifth.value:
        return Scalar(None, status="not_finite", advice="λ5 is zero")
    value = first.value / fifth.value
    error = abs(value) * math.hypot(
        (first.error or 0.0) / first.value, (fifth.error or 0.0) / fifth.value
    )
    worst = first if first.status != "converged" else fifth
    if sampled.error is not None:
        sampled = replace(sampled, error=abs(value) * sampled.error)
    scalar = Scalar(value, error, "residual", worst.status, worst.advice)
    return _with_sampling(scalar, sampled)
