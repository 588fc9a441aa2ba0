"""The one place that knows operators by name."""

from __future__ import annotations

from torch import Tensor

from ..errors import UsageError
from ..objective import Objective
from ..settings import CurvatureSettings
from .hessian import Hessian
from .protocol import CurvatureOperator

__all__ = ["make_operator"]


def make_operator(
    objective: Objective, theta: Tensor, settings: CurvatureSettings | None = None
) -> CurvatureOperator:
    """The operator that the settings name, of an objective at θ (n,)."""
    settings = settings or CurvatureSettings()
    if settings.operator != "hessian":
        raise UsageError(
            f"--operator {settings.operator}: there is no such operator", "use hessian"
        )
    return Hessian(objective, theta, memory=settings.memory)
