"""A curvature matrix in the coordinates of a diagonal preconditioner."""

from __future__ import annotations

from torch import Tensor

from sharpcli.linalg.operator import CurvatureOperator

__all__ = ["Preconditioned"]


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
