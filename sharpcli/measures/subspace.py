"""The space in which a box is searched: all parameters, or a random subspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.linalg.orthogonal import dots
from sharpcli.runtime.memory import available_memory
from sharpcli.runtime.randomness import own_generator

__all__ = ["FullSpace", "RandomSubspace", "Space"]

# Share of the free memory for a stored random matrix.
_SHARE = 0.25


@dataclass(frozen=True)
class FullSpace:
    """A = I: coordinates are the parameters themselves."""

    dimensions: None = None

    def coordinates(self, theta: Tensor) -> Tensor:
        """A⁺θ, which is θ (n,)."""
        return theta

    def lift(self, coordinates: Tensor) -> Tensor:
        """Az, which is z (n,)."""
        return coordinates

    def pull(self, gradient: Tensor) -> Tensor:
        """Aᵀg, which is g (n,)."""
        return gradient


class RandomSubspace:
    """A (n, p) with standard normal columns, each from the seed, the draw and its number.

    The columns are kept if they fit into a quarter of the free memory; otherwise every use makes
    them again, with the same numbers. They are drawn on the CPU, so they are the same on every
    device.
    """

    def __init__(self, like: Tensor, dimensions: int, seed: int, draw: int = 0) -> None:
        self.dimensions, self._like = dimensions, like
        self._name, self._seed = f"draw {draw} of a subspace, column", seed
        size = dimensions * like.numel() * like.element_size()
        fits = size <= _SHARE * available_memory(like.device)
        self._kept = torch.stack(list(self._draw())) if fits else None

    def coordinates(self, theta: Tensor) -> Tensor:
        """A⁺θ = (AᵀA)⁻¹Aᵀθ (p,), by the normal equations in float64 (A is well conditioned)."""
        gram = torch.cat([self._dots(row[None]) for row in self._rows()], dim=1)
        right = self._dots(theta[None])
        solved: Tensor = torch.linalg.solve(gram, right)
        return solved[:, 0].to(theta)

    def lift(self, coordinates: Tensor) -> Tensor:
        """Az (n,), or (k, n) of several z (k, p), in the dtype of z."""
        if self._kept is not None and self._kept.dtype == coordinates.dtype:
            return coordinates @ self._kept
        shape = (*coordinates.shape[:-1], len(self._like))
        out = torch.zeros(shape, dtype=coordinates.dtype, device=self._like.device)
        for weight, row in zip(coordinates.movedim(-1, 0), self._rows(), strict=True):
            out += weight[..., None] * row
        return out

    def pull(self, gradient: Tensor) -> Tensor:
        """Aᵀg (p,)."""
        return self._dots(gradient[None])[:, 0].to(gradient)

    def _dots(self, rows: Tensor) -> Tensor:
        if self._kept is not None:
            return dots(self._kept, rows)
        return torch.cat([dots(row[None], rows) for row in self._rows()])

    def _rows(self) -> Iterator[Tensor]:
        yield from self._draw() if self._kept is None else self._kept

    def _draw(self) -> Iterator[Tensor]:
        for column in range(self.dimensions):
            generator = own_generator(f"{self._name} {column}", self._seed)
            draws = torch.randn(self._like.numel(), generator=generator, dtype=torch.float32)
            yield draws.to(self._like)


Space = FullSpace | RandomSubspace
