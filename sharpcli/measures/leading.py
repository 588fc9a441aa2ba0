"""λ1 alone, to a few per cent, for measurements during a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpcli.curvature import CurvatureOperator, Rounding, SelfCheck, in_float64, make_operator
from sharpcli.curvature.forward_difference import ForwardDifference
from sharpcli.curvature.preconditioned import Preconditioned
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import Status
from sharpcli.errors import setting
from sharpcli.linalg.largest import Largest, largest
from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.hessian import product_error, suspicion
from sharpcli.objective.objective import Objective
from sharpcli.objective.shards import part
from sharpcli.runtime.randomness import own_generator
from sharpcli.settings.curvature import CurvatureSettings

__all__ = ["EXACT", "Leading", "leading", "rounding_share"]

# One order of differentiation, and no timing that could choose another one after a resume: the
# same numbers every time.
EXACT = CurvatureSettings(hvp="double-backward")
# The share of the tolerance that a search with differences leaves to their own error, which is 0.2
# to 0.5 % of λ1 on the text GPT.
_LEFT = 0.15
# What a search with exact products leaves to rounding; a larger share of rounding asks for float64.
_SPARE, _ROUNDED = 0.02, 0.15
# Rows on which the run's precision is compared with float64: this share, and at least so many.
_SHARE, _FEWEST = 32, 8


@dataclass(frozen=True)
class Leading:
    """λ1 and its unit `vector` (n,); whether differences of gradients were `smooth` enough."""

    scalar: Scalar
    vector: Tensor
    smooth: bool


def leading(
    objective: Objective,
    theta: Tensor,
    check: SelfCheck | None,
    *,
    tolerance: float,
    diagonal: Tensor | None = None,
    differences: bool = True,
    rounding: Callable[[float, Tensor], float] = lambda _, __: 0.0,
    seed: int = 0,
    named: str = "tol",
) -> Leading:
    """λ1 of the Hessian, or of its form with a diagonal preconditioner, with an error that holds.

    The search takes differences of gradients, which cost half of a product. One exact product with
    the vector that they find gives the value vᵀHv and the residual ‖Hv − λv‖, and shows their
    error. Where they are not good enough, as with ReLU, all products are exact; where float32 is
    not, they are in float64.

    The error is the residual, or the distance above which no larger eigenvalue was missed (except
    with probability 0.01), whichever is larger, with what rounding adds.

    Args:
        objective: the mean loss.
        theta: θ (n,).
        check: of second derivatives, made once for a training.
        tolerance: the largest error of a converged value, as a share of it.
        diagonal: P of P^(-1/2) H P^(-1/2) (n,).
        differences: whether to try differences first.
        rounding: the share of λ1 that the run's precision may change, given λ1 and its vector.
        seed: of the random start.
        named: the setting that is the tolerance, for advice.

    Cost: on the text GPT 7 gradients and a product; with ReLU 8 to 14 products.
    """
    generator = own_generator("leading eigenvalue", seed)
    exact = _form(make_operator(objective, theta, EXACT), diagonal)
    found, smooth = None, differences
    try:
        if differences:
            rough = _form(ForwardDifference(objective, theta), diagonal)
            first = largest(rough, generator, tolerance=tolerance * (1 - _LEFT), rough=True)
            rough.release()
            # Differences that are not symmetric stay so; what only takes longer may not.
            smooth = first.asymmetry <= tolerance * abs(first.value)
            found = _certified(exact, first, tolerance) if first.met else None
        if found is None:
            found = largest(exact, generator, tolerance=tolerance * (1 - _SPARE))
    finally:
        exact.release()
    error = max(found.residual, found.above if math.isfinite(found.above) else 0.0)
    share = rounding(found.value, found.vector)
    narrow = objective.network.compute != torch.float64
    if narrow and found.met and share > _ROUNDED * tolerance:
        double, there = in_float64(objective, theta)
        if there.dtype == torch.float64:
            wide = None if diagonal is None else diagonal.double()
            own = leading(
                double, there, check, tolerance=tolerance, diagonal=wide, differences=False,
                seed=seed, named=named,
            )  # fmt: skip
            return replace(own, vector=own.vector.to(theta), smooth=smooth)
    error = math.hypot(error, share * abs(found.value), found.asymmetry, product_error(check))
    doubt = suspicion(check)
    status, advice = Status.CONVERGED, None
    if doubt is not None:
        status, advice = doubt
    elif not found.met:
        status = Status.MAX_PRODUCTS
        advice = f"the residual is above {setting(named)}, or a larger eigenvalue may be missed"
    elif error > tolerance * abs(found.value):
        status, advice = Status.PRECISION, f"rounding keeps the error above {setting(named)}"
    return Leading(Scalar(found.value, error, "residual", status, advice), found.vector, smooth)


def rounding_share(
    objective: Objective, theta: Tensor, value: float, vector: Tensor, seed: int = 0
) -> float:
    """‖(Ĥ − H)v‖ as a share of ‖Ĥv‖, from a few rows. Cost: six products of these rows."""
    rows = objective.rows
    few = min(rows.count, max(_FEWEST, rows.count // _SHARE))
    own = objective
    if rows.fixed_batch is None and few < rows.count:
        order = torch.randperm(rows.count, generator=own_generator("rows of rounding", seed))
        own = part(objective, order[:few])
    operator = make_operator(own, theta, EXACT)
    size = float((operator @ vector).norm())
    operator.release()
    off = float(Rounding(own, theta, EXACT, seed=seed).products(vector[None]).norm())
    size = max(size, abs(value))  # a few rows may have next to no curvature along v
    return off / size if size else math.inf


def _form(operator: CurvatureOperator, diagonal: Tensor | None) -> CurvatureOperator:
    return operator if diagonal is None else Preconditioned(operator, diagonal)


def _certified(exact: CurvatureOperator, rough: Largest, tolerance: float) -> Largest | None:
    """The pair from one exact product with a vector; None if its error is above the tolerance.

    What the exact and the rough product of the vector differ by is taken for the error of all rough
    ones.
    """
    vector = rough.vector
    image = exact @ vector
    value = float(dots(vector[None], image[None]))
    residual = _norm(image - value * vector)
    above = max(0.0, rough.value + rough.above - value) + _norm(image - rough.image)
    met = max(residual, above) <= tolerance * abs(value)
    moved = torch.finfo(vector.dtype).eps * _norm(image)
    found = Largest(value, vector, image, residual, above, met, moved, rough.products + 1)
    return found if met else None


def _norm(vector: Tensor) -> float:
    square = float(dots(vector[None], vector[None]))
    return math.sqrt(square)
