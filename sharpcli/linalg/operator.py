"""The interface of operators in `linalg`, and a matrix that implements it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["CurvatureOperator", "Dense", "SymmetricOperator"]


class SymmetricOperator(Protocol):
    """The interface that the algorithms of `linalg` use; `products` counts multiplied vectors."""

    size: int
    dtype: torch.dtype
    device: torch.device
    products: int

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The operator times a vector (n,) or the columns of a matrix (n, k)."""
        ...


class CurvatureOperator(SymmetricOperator, Protocol):
    """A symmetric operator of an objective at a point, which may keep graphs between products.

    `error` bounds the error of a product with a unit vector, rounding excluded.
    """

    error: float

    def release(self) -> None:
        """Free what is kept."""
        ...


@dataclass
class Dense:
    """A symmetric matrix (n, n) as an operator."""

    matrix: Tensor
    products: int = 0

    def __post_init__(self) -> None:
        self.size = len(self.matrix)
        self.dtype, self.device = self.matrix.dtype, self.matrix.device

    def __matmul__(self, vectors: Tensor) -> Tensor:
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        return self.matrix @ vectors
