"""Both ends of the Hessian's spectrum, and its trace."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.curvature import SelfCheck
from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.statuses import Status
from sharpcli.errors import UsageError, counted, setting
from sharpcli.linalg.eigsh import EigshResult, is_settled
from sharpcli.linalg.krylov import Krylov
from sharpcli.linalg.orthogonal import project_out
from sharpcli.linalg.trace import random_signs
from sharpcli.linalg.trace import trace as estimate_trace
from sharpcli.measures.context import Context
from sharpcli.measures.sampling import Sampled, eigenvalue_errors, trace_error, with_sampling
from sharpcli.objective.objective import Objective
from sharpcli.runtime.randomness import own_generator
from sharpcli.settings.curvature import Operator
from sharpcli.settings.measuring import MeasureSettings

__all__ = [
    "at_most",
    "check",
    "hessian",
    "is_semidefinite",
    "numbers_of",
    "product_error",
    "suspicion",
    "trace",
]

_NAMED = 4  # the most operations that an advice lists

# An eigenvalue is unknown if its error is a larger share of it, even if small against λ1.
_SHARE = 0.1
# A ratio to λ5 has no value if the error is a larger share of λ5: it might be infinite.
_LARGEST_OF_FIFTH = 0.5
# With more parameters a product for each eigenvector is too expensive: 784-512-512-10 has 669,706.
_MIXED = 100_000
# Ritz vectors at each end whose rounding in the trace is measured, and random probes for the rest.
_FOLLOWED, _PROBES = 3, 2


def check(size: int, settings: MeasureSettings) -> None:
    """Refuse more eigenvalues than parameters, and fewer products than the eigenvalues need.

    The default number of eigenvalues is reduced to the number of parameters.

    Raises:
        UsageError: if there are too few parameters or products.
    """
    top, most = settings.top, settings.max_products
    if top > size and top != MeasureSettings.top:
        raise UsageError(
            f"{setting('top', top)}: the model has only {counted(size, 'parameter')}",
            f"ask for {counted(size, 'eigenvalue')} at most",
        )
    top = min(top, size)
    if most is not None and most < top + 2:
        raise UsageError(
            f"{setting('max_products', most)}: too few for {counted(top, 'eigenvalue')} and the "
            "smallest",
            f"allow {top + 2} or more, or ask for fewer with {setting('top')}",
        )


def hessian(context: Context) -> dict[str, Any]:
    """λ1 ≥ … ≥ λk and λmin of ∇²L(θ), each with its residual ‖Hv − λv‖; λ1/λ5.

    Converged means a residual of at most tol·|λ1|. λmin is an upper bound if its residual is not
    small relative to itself, as for a mixture of the many curvatures near zero. On a subset the
    sampling error of λi combines the first-order change, the standard error over shards of vᵢᵀH_s
    vᵢ, with the second-order one. Invariant to rotations of θ, not to rescaling.

    Cost: 30 to 60 products, each about 1.5 (MLP) to 2.8 (deep networks) gradients; on a subset one
    more for each number.
    Source: block Lanczos (Golub & Underwood 1977) with thick restarts (Wu & Simon 2000).
    """
    return {"hessian": numbers_of(context, context.eigenvalues)}


def numbers_of(context: Context, found: EigshResult) -> dict[str, Any]:
    """The numbers of `hessian` for given eigenpairs."""
    sampled = eigenvalue_errors(context, found.krylov, len(found.largest))
    doubt = suspicion(context.self_check)

    rounding = _rounding(context, found)
    limit = context.settings.tol * abs(float(found.largest[0]))

    def scalar(
        value: float,
        error: float,
        met: bool,
        sampling: Sampled,
        rounding: float,
        *,
        lowest: bool = False,
    ) -> Scalar:
        checked = product_error(context.self_check)
        error = math.hypot(error, context.hessian.error, rounding, checked)
        share = _SHARE * abs(value) or math.inf
        known = error <= min(limit, share)
        if lowest:  # rounding is reported apart from how far down others may lie
            off = math.hypot(rounding, context.hessian.error)
            known = off <= limit or is_settled(value, off)
        status, advice = doubt or _verdict(context, found, met=met, known=known, limit=limit)
        return with_sampling(Scalar(value, error, "residual", status, advice), sampling)

    top = [
        scalar(float(value), float(error), met, each, off)
        for value, error, met, each, off in zip(
            found.largest,
            found.largest_errors,
            found.largest_converged,
            sampled.largest,
            rounding[: len(found.largest)],
            strict=True,
        )
    ]
    numbers: dict[str, Any] = {"eigenvalues": top}
    if len(found.smallest):
        value, error = float(found.smallest[0]), float(found.smallest_errors[0])
        semidefinite = is_semidefinite(
            context.settings.curvature.operator, context.objective, context.self_check
        )
        met = found.smallest_converged[0]
        lowest = scalar(value, error, met, sampled.smallest, rounding[-1], lowest=True)
        if semidefinite and -(lowest.error or 0.0) <= value < 0:
            lowest = replace(lowest, value=0.0)  # below zero only by rounding
        if not semidefinite and not found.smallest_settled[0]:
            space = found.krylov
            off = math.hypot(space.rounding, space.dropped, rounding[-1], context.hessian.error)
            lowest = at_most(lowest, off)
        numbers["smallest"] = lowest
    elif context.lowest:
        numbers["smallest"] = top[-1]  # all eigenvalues are at hand
    if len(top) >= 5:
        numbers["ratio_1_5"] = _ratio(top[0], top[4], sampled.ratio)
    numbers |= {
        "products": found.products,
        "passes": found.passes,
        "size": context.objective.size,
        "operator": context.settings.curvature.operator,
    }
    return numbers


def trace(context: Context) -> dict[str, Any]:
    """Σ λ = tr ∇²L(θ), with the standard error of its random part.

    Exact on the subspace of the eigenvalues (or a sketch of 20 products), random signs on the rest.

    Cost: 6 products or more, and 4 on a subset for the sampling error, the standard error over
    shards of their traces.
    Source: Hutch++ (Meyer et al. 2021).
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
    status, advice = (Status.CONVERGED, None)
    if not found.converged:
        status, advice = (
            Status.MAX_PRODUCTS,
            f"the standard error is above {setting('relative_error')}: raise "
            f"{setting('max_products')}",
        )
    status, advice = suspicion(context.self_check) or (status, advice)
    sampled = trace_error(context, krylov)
    checked = context.self_check.trace_error if context.self_check else 0.0
    error = math.hypot(found.standard_error, _trace_rounding(context, krylov), checked)
    if status == Status.CONVERGED and error > context.settings.relative_error * abs(found.value):
        wide = context.objective.network.compute == torch.float64
        allowed, wider = setting("relative_error"), setting("dtype", "float64")
        remedy = f"raise {allowed}" if wide else f"use {wider}"
        status = Status.PRECISION
        advice = f"rounding keeps the error above {allowed}: {remedy}"
    scalar = Scalar(found.value, error, "standard_error", status, advice)
    return {"trace": scalar_fields(with_sampling(scalar, sampled), products=found.products)}


def _trace_rounding(context: Context, krylov: Krylov) -> float:
    """How far rounding in losses and products moves the trace.

    It combines the signed change of each outermost Ritz value with a random-sign estimate of the
    rest: its mean, and its own standard error.
    """
    vectors, values = _outermost(krylov, context.known("eigenvalues"))
    generator = own_generator("rounding of the trace", context.seed)
    probes = random_signs(_PROBES, krylov.basis, generator)
    project_out(probes, vectors)
    known = context.off_quotients
    if known is None:
        own = context.rounding.products(vectors)
        known = float((own * vectors.to(own)).sum())
    off = context.rounding.products(probes)
    rest = float((off * probes.to(off)).sum()) / _PROBES
    scatter = (2 * float(off.square().sum())) ** 0.5 / _PROBES
    combined = float(context.rounding.combined(vectors, values).norm())
    return math.hypot(known, rest, scatter, combined)


def _outermost(krylov: Krylov, found: EigshResult | None) -> tuple[Tensor, Tensor]:
    """Ritz vectors at both ends and their values; those of the eigenvalues, if measured."""
    if found is not None:
        top, bottom = len(found.largest), len(found.smallest)
        vectors = torch.cat([krylov.basis[:top], krylov.basis[krylov.size - bottom :]])
        return vectors, torch.cat([found.largest, found.smallest])
    values, turn, _ = krylov.ritz()
    top = min(_FOLLOWED, krylov.size)
    bottom = max(top, krylov.size - _FOLLOWED)
    ends = torch.cat([turn[:, :top], turn[:, bottom:]], dim=1)
    vectors = ends.T.to(krylov.basis) @ krylov.basis
    return vectors, torch.cat([values[:top], values[bottom:]])


def at_most(lowest: Scalar, rounding: float) -> Scalar:
    """Mark a smallest eigenvalue as an upper bound, because the true one may be smaller.

    What `rounding` may have removed is added, so that the bound holds.
    """
    if lowest.status != Status.CONVERGED or lowest.value is None:
        return lowest
    bound = lowest.value + rounding
    return replace(
        lowest, value=bound, error=None, error_kind="upper_bound", status=Status.UPPER_BOUND
    )


def product_error(check: SelfCheck | None) -> float:
    """The error of a product with a unit vector, from the self-check."""
    return check.product_error if check else 0.0


def suspicion(check: SelfCheck | None) -> tuple[Status, str] | None:
    """Status and advice for every number if the second derivatives failed their check."""
    if check is None or (check.passed and check.resolved):
        return None
    if check.passed:
        return Status.PRECISION, (
            "second derivatives could not be checked: differences of gradients change with their "
            f"step by {check.unresolved:.1e} of a product; the gradient jumps at θ, or the loss is "
            "so small that it is rounding"
        )
    if check.of == "finite-difference":
        return Status.SUSPECT, (
            f"finite differences of the gradient are not symmetric (by {check.asymmetry:.1e}): "
            "backward() does not return the gradient of one function"
            f"{_named(check)}, and there is no Hessian to measure"
        )
    where = f", first in '{check.tensor}'" if check.tensor else ""
    if check.of != "hessian":
        return Status.SUSPECT, (
            f"products fail a float64 self-check (difference {check.difference:.1e}{where}): an "
            "operation of the model or its loss has a backward pass that cannot be differentiated"
            f"{_named(check)}; replace it by PyTorch's own operations"
        )
    return Status.SUSPECT, (
        "the second derivatives fail a float64 self-check (asymmetry "
        f"{check.asymmetry:.1e}, difference to a finite difference {check.difference:.1e}{where}): "
        f"an operation of the model has a wrong or no second derivative{_named(check)}; "
        f"{setting('hvp', 'finite-difference')} does without"
    )


def _rounding(context: Context, found: EigshResult) -> list[float]:
    """How far rounding in losses and products moves each of the largest and the smallest value.

    ‖(Ĥ − H)v‖ of its Ritz vector v, with Ĥ the run's own H on the rows seen by both precisions, is
    the residual that v would have in exact arithmetic. The errors of the products that v's is
    combined from are added. For large networks λ1 and λmin have a vector each; one mixture of all
    others represents each of them.
    """
    vectors, values = _outermost(found.krylov, found)
    mixed = vectors
    if len(vectors) > 3 and vectors.shape[1] > _MIXED:
        signs = random_signs(1, values[None, 1:-1], own_generator("mixture", context.seed))
        middle = signs.to(vectors) @ vectors[1:-1]
        mixed = torch.cat([vectors[:1], middle, vectors[-1:]])
    off = context.rounding.products(mixed)
    context.off_quotients = float((off * mixed.to(off)).sum())
    if len(mixed) < len(vectors):
        off = torch.cat([off[:1], off[1:2].expand(len(vectors) - 2, -1), off[2:]])
    combined = context.rounding.combined(vectors, values)
    norms: list[float] = torch.hypot(off.norm(dim=1), combined).tolist()
    return norms


def _named(check: SelfCheck) -> str:
    """The operations that may be the cause, in brackets."""
    return f" (it uses {', '.join(check.unvouched[:_NAMED])})" if check.unvouched else ""


def is_semidefinite(operator: Operator, objective: Objective, check: SelfCheck | None) -> bool:
    """Whether the operator has no negative eigenvalue, apart from rounding.

    The empirical Fisher matrix is a sum of squares. A Gauss-Newton matrix is semidefinite if the
    loss is convex in the outputs: known for exponential families in their natural parameters,
    otherwise checked.
    """
    if operator != "ggn":
        return operator != "hessian"
    known = getattr(objective.network.task.loss, "exponential_family", False)
    return bool(known) or (check is not None and check.convex)


def _verdict(
    context: Context, found: EigshResult, *, met: bool, known: bool, limit: float
) -> tuple[Status, str | None]:
    """Status and advice of an eigenvalue, by whether its residual is `met` and error `known`."""
    narrow = context.objective.network.compute != torch.float64
    if not met and found.rounded and narrow:
        return Status.PRECISION, (
            "rounding may hide another eigenvalue this far beyond: use "
            f"{setting('dtype', 'float64')}"
        )
    if not met:
        return Status.MAX_PRODUCTS, (
            f"the residual is above {setting('tol')}, or larger eigenvalues may have been missed: "
            f"raise {setting('max_products')} or {setting('tol')}"
        )
    if context.hessian.error > limit > 0:
        return Status.PRECISION, (
            f"finite differences change with their step by more than {setting('tol')}: the "
            "gradient jumps near θ, or the model runs in float32 only"
        )
    if narrow and limit > 0 and not known:
        return Status.PRECISION, (
            f"rounding keeps the error above {setting('tol')} or a tenth of the value: use "
            f"{setting('dtype', 'float64')}"
        )
    return Status.CONVERGED, None


def _ratio(first: Scalar, fifth: Scalar, sampled: Sampled) -> Scalar:
    """λ1/λ5 with its residual error and its relative `sampled` error, propagated to first order."""
    if not first.value or not fifth.value:
        return Scalar(None, status=Status.NOT_FINITE, advice="λ5 is zero")
    value = first.value / fifth.value
    error = abs(value) * math.hypot(
        (first.error or 0.0) / first.value, (fifth.error or 0.0) / fifth.value
    )
    worst = first if first.status != Status.CONVERGED else fifth
    if (fifth.error or 0.0) > _LARGEST_OF_FIFTH * abs(fifth.value):
        status = Status.PRECISION if worst.status == Status.CONVERGED else worst.status
        return Scalar(
            None, status=status, advice=worst.advice or "λ5 cannot be distinguished from zero"
        )
    if sampled.error is not None:
        shares = sampled.shards or ()
        sampled = replace(
            sampled,
            error=abs(value) * sampled.error,
            shards=[value * share for share in shares] or None,
        )
    scalar = Scalar(value, error, "residual", worst.status, worst.advice)
    return with_sampling(scalar, sampled)
