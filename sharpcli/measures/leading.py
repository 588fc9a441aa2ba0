"""λ1 alone, to a few per cent, for measurements during a training."""

from __future__ import annotations

import math

from sharpcli.curvature import CurvatureOperator, SelfCheck
from sharpcli.documents.results import Scalar
from sharpcli.documents.statuses import Status
from sharpcli.errors import setting
from sharpcli.linalg.eigsh import eigsh
from sharpcli.measures.hessian import product_error, suspicion

__all__ = ["leading"]


def leading(
    operator: CurvatureOperator,
    check: SelfCheck | None,
    *,
    tolerance: float,
    max_products: int | None = None,
    seed: int = 0,
    named: str = "tol",
) -> Scalar:
    """λ1 of an operator with its residual; converged if the error is at most `tolerance`·|λ1|.

    As in `hessian` a random start excludes that a larger one was missed, except with probability
    0.001. One vector at a time takes the fewest products for one eigenvalue. Where products are
    good to some digits only, what they lack in symmetry is added to the error, and the start
    excludes as if they were exact.

    Args:
        operator: the matrix.
        check: of second derivatives, whose product error is added; made once for a training.
        tolerance: as a share of λ1.
        max_products: the most products.
        seed: of the random start.
        named: the setting that is the tolerance, for advice.

    Cost: 5 to 10 products on trained networks at 5 %, up to 30 before the first step.
    """
    found = eigsh(operator, 1, tolerance=tolerance, max_products=max_products, seed=seed, block=1)
    value, error = float(found.largest[0]), float(found.largest_errors[0])
    met = found.largest_converged[0]
    if found.rounded and not met:
        residual = float(found.krylov.ritz()[2][0])
        error = math.hypot(residual, found.krylov.rounding)
        met = error <= tolerance * abs(value)
    error = math.hypot(error, operator.error, product_error(check))
    doubt = suspicion(check)
    if doubt is not None:
        return Scalar(value, error, "residual", *doubt)
    if not met:
        advice = f"the residual is above {setting(named)}, or a larger eigenvalue may be missed"
        return Scalar(value, error, "residual", Status.MAX_PRODUCTS, advice)
    return Scalar(value, error, "residual")
