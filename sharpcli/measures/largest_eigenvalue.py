"""λ1 alone, for those who need no other eigenvalue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sharpcli.documents.scalars import scalar_fields
from sharpcli.measures.context import Context
from sharpcli.measures.hessian import numbers_of

__all__ = ["largest_eigenvalue"]

# On a sample a smaller residual is no use: the value's own error is about its square, and the
# sampling error is several per cent.
_ON_SAMPLE = 0.02


def largest_eigenvalue(context: Context) -> dict[str, Any]:
    """λ1 of ∇²L(θ) and no other eigenvalue, with the errors that `hessian` gives it.

    On a sample the residual is at most 2 % of λ1, or the tolerance if that is more.

    Cost: 8 to 20 products; on a sample 8 to 14, and one more for its sampling error.
    Source: block Lanczos with thick restarts (Wu & Simon 2000).
    """
    tolerance = context.settings.tol
    if context.objective.rows.sampled:
        tolerance = max(tolerance, _ON_SAMPLE)
    settings = replace(context.settings, top=1, tol=tolerance)
    own = replace(context, settings=settings, lowest=False)
    try:
        numbers = numbers_of(own, own.eigenvalues)
    finally:
        own.release()
    spent = {name: numbers[name] for name in ("products", "passes", "operator")}
    return {"largest_eigenvalue": scalar_fields(numbers["eigenvalues"][0], **spent)}
