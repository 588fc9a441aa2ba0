"""Spectra that are known, as operators, and how far a density is from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Diagonal:
    """A diagonal matrix: starts are Gaussian, so nothing depends on the eigenvectors."""

    values: Tensor
    products: int = 0

    def __post_init__(self) -> None:
        self.size = len(self.values)
        self.dtype, self.device = self.values.dtype, self.values.device

    def __matmul__(self, vectors: Tensor) -> Tensor:
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        return self.values.reshape(-1, *[1] * (vectors.ndim - 1)) * vectors


def _random(count: int, power: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, generator=generator, dtype=torch.float64) ** power


def _spike() -> Tensor:
    """As a trained network's: most within 1e-6 of zero, a bulk, ten outliers."""
    outliers = torch.linspace(2, 12, 10, dtype=torch.float64)
    return torch.cat([(_random(1800) - 0.5) * 1e-6, _random(190, 4) * 0.5, outliers])


DIAGONAL: dict[str, Callable[[], Tensor]] = {
    "uniform": lambda: 2 * _random(2000) - 1,
    "power law": lambda: 12 / torch.arange(1, 2001, dtype=torch.float64),
    "spike": _spike,
    "positive spike": lambda: _spike().abs(),
    "indefinite": lambda: torch.cat([_spike()[:-30], -0.1 * _random(30)]),
    "doubles": lambda: _random(1000, 3).repeat(2),
    "two": lambda: torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(1000),
}


def true_moments(values: Tensor) -> list[float]:
    """The first four moments."""
    return [float((values.double() ** power).mean()) for power in range(1, 5)]


def total_variation(grid: Tensor, curve: Tensor, values: Tensor, bins: int = 20) -> float:
    """Half the sum over even bins of how far the density's mass is from the eigenvalues'."""
    x, y, true = grid.double().numpy(), curve.double().numpy(), values.double().numpy()
    edges = np.linspace(true.min(), true.max(), bins + 1)
    below = np.concatenate([[0.0], np.cumsum(np.diff(x) * (y[1:] + y[:-1]) / 2)])
    passed = np.interp(edges, x, below)
    passed[0], passed[-1] = 0.0, below[-1]  # the kernels reach a little beyond both ends
    return float(np.abs(np.diff(passed) - np.histogram(true, edges)[0] / len(true)).sum() / 2)
