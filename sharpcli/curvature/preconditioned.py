"""A curvature matrix in the coordinates of a diagonal preconditioner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sharpcli.linalg.operator import CurvatureOperator

__all__ = ["Preconditioned", "adam_diagonal", "root_diagonal"]


def adam_diagonal(group: Mapping[str, Any], slots: Mapping[str, Any], steps: float) -> Tensor:
    """Adam's P = (1 − β1ᵗ)(√(v/(1 − β2ᵗ)) + ε) of one parameter, with a step θ −= η P⁻¹m.

    m is the running mean of gradients, v that of their squares.

    Args:
        group: `betas`, `eps` and `amsgrad`.
        slots: `exp_avg_sq`, with `amsgrad` `max_exp_avg_sq`.
        steps: t.
    """
    first, second = group["betas"]
    squares: Tensor = slots["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    unbiased = squares / (1 - float(second) ** steps)
    diagonal: Tensor = (1 - float(first) ** steps) * (unbiased.sqrt() + group["eps"])
    return diagonal


def root_diagonal(group: Mapping[str, Any], slots: Mapping[str, Any]) -> Tensor:
    """RMSprop's P = √v + ε of one parameter, centred √(v − m²) + ε; Adagrad's √(Σg²) + ε."""
    squares: Tensor = slots["sum"] if "sum" in slots else slots["square_avg"]
    if group.get("centered"):
        squares = squares.addcmul(slots["grad_avg"], slots["grad_avg"], value=-1)
    root: Tensor = squares.sqrt() + group["eps"]
    return root


class Preconditioned:
    """P^(-1/2) A P^(-1/2) for a symmetric operator A and a diagonal P (n,) above zero.

    It has the eigenvalues of P⁻¹A. Cost: a product of A a product.
    """

    def __init__(self, operator: CurvatureOperator, diagonal: Tensor) -> None:
        self._operator, self._scale = operator, diagonal.rsqrt()
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.products = 0
        self.error = 0.0

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The product with v (n,) or V (n, k)."""
        scale = self._scale if vectors.ndim == 1 else self._scale[:, None]
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        found = scale * (self._operator @ (scale * vectors))
        self.error = self._operator.error * float(self._scale.max()) ** 2
        return found

    def release(self) -> None:
        """Free what A keeps."""
        self._operator.release()
