"""The probability that a Krylov space from a random start has missed an eigenvalue.

Let Q be the basis with A Qᵀ = Qᵀ T + Fᵀ B + N, and u a unit eigenvector of A with eigenvalue μ. Its
coordinates y = Q u and z = F u satisfy (T − μ) y = −Bᵀ z − Nᵀ u with ‖y‖² + ‖z‖² ≤ 1. So the
coordinates of u in the random start, which are some entries of y, lie in a known ellipsoid S(μ).
Away from the Ritz values it is exponentially small: for a single start it is the Christoffel
function of the Lanczos polynomials, the largest weight that a spectrum with the same moments can
have at μ. But the start was random: each coordinate is normal with variance 1/n, and lies in a
small ellipsoid only with small probability. This costs no product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Stage", "hidden_shares", "missed_probability"]

# Keeps distances from Ritz values positive if rounding is given as zero.
_TINY = math.sqrt(torch.finfo(torch.float64).tiny)
# Near a pole of M, where 1 + MᵀM has an entry this large, its rounding would show.
_POLE = 1e8
# Entries of a points × Ritz values table processed at once: 16 MB.
_ENTRIES = 2**21


@dataclass(frozen=True)
class Stage:
    """A Krylov space between two restarts.

    `values` (m,) and `vectors` (m, m) are those of T. `coupling` (w, c) has the columns of B for
    the last c rows of the basis (the others are zero). The basis rows in `carried` were pending
    when the stage began; those in `fresh` were drawn at random during it.
    """

    values: Tensor
    vectors: Tensor
    coupling: Tensor
    carried: Sequence[int]
    fresh: Sequence[int]


def hidden_shares(stages: Sequence[Stage], points: Tensor, noise: float) -> Tensor:
    """Squared half-axes of S(μ) at each of `points` (p,), in descending order: (p, random rows).

    `stages` are in the order in which they ran; `noise` bounds ‖N u‖, the rounding of the
    recurrence along an eigenvector.

    Cost: m·(random rows)²·p operations.
    """
    few = torch.split(points, max(1, _ENTRIES // max(len(stage.vectors) for stage in stages)))
    return torch.cat([_hidden_shares(stages, each, noise) for each in few])


def _hidden_shares(stages: Sequence[Stage], points: Tensor, noise: float) -> Tensor:
    """`hidden_shares` for as many points as fit in memory at once."""
    *before, last = stages
    shares = _shares(last, points, noise)
    # For rows that were pending at a restart, use the next stage's bound on the rows it carried.
    for stage in reversed(before):
        step, _, left = _transfer(stage, points, noise)
        rows, width = step.shape[-2:]
        more = shares.shape[-1] - width
        whole = torch.zeros(len(points), rows + more, width + more, dtype=torch.float64)
        whole[:, :rows, :width] = step
        whole[:, rows:, width:] = torch.eye(more, dtype=torch.float64)
        shares = whole @ shares @ whole.mT
        shares[:, :rows, :rows] += left
    found: Tensor = torch.linalg.eigvalsh(shares).flip(-1).clamp_min(0)
    if before:
        # Near a pole of the first stage, that stage alone may give a tighter bound than all
        # together.
        alone = torch.linalg.eigvalsh(_shares(stages[0], points, noise)).flip(-1).clamp_min(0)
        if alone.shape == found.shape:
            found = torch.minimum(found, alone)
    return found


def missed_probability(shares: Tensor, accounted: int, size: int) -> Tensor:
    """The probability (p,) that a random start hides one eigenvector more than are `accounted` for.

    `shares` (p, r) come from `hidden_shares`, for vectors with `size` entries. Accounted
    eigenvectors may fill the longest axes; a further one must lie within the remaining axes, so its
    probability is that of a χ² with one degree of freedom for each. It is 1 if no axis remains.
    """
    left = shares.shape[-1] - accounted
    if left <= 0:
        return torch.ones(len(shares), dtype=torch.float64)
    freedom = torch.full((), left / 2, dtype=torch.float64)
    chance: Tensor = torch.special.gammainc(freedom, size * shares[:, accounted] / 2)
    return chance


def _shares(stage: Stage, points: Tensor, noise: float) -> Tensor:
    """S(μ) of the stage's carried and fresh rows from its own recurrence (p, e, e)."""
    step, matrix, left = _transfer(stage, points, noise)
    # ‖y‖² + ‖z‖² ≤ 1 is zᵀ(1 + MᵀM)z ≤ 1; near a pole only a factor of that matrix is accurate.
    factor = torch.linalg.cholesky_ex(matrix).L.mT
    beside = (matrix.diagonal(dim1=1, dim2=2).amax(1) > _POLE).nonzero().ravel()
    for few in torch.split(beside, max(1, _ENTRIES // stage.vectors.shape[0])):
        factor[few] = _factor(stage, points[few], noise)
    axes = torch.linalg.solve_triangular(factor.mT, step.mT, upper=False)
    shares: Tensor = axes.mT @ axes + left
    return shares


def _factor(stage: Stage, points: Tensor, noise: float) -> Tensor:
    """R (p, w, w) with RᵀR = 1 + MᵀM, to machine precision."""
    coupled, squares = _coupled(stage), _squares(stage, points, noise)
    inside = coupled / squares.sqrt()[..., None]
    one = torch.eye(inside.shape[-1], dtype=torch.float64).expand(len(points), -1, -1)
    factor: Tensor = torch.linalg.qr(torch.cat([inside, one], dim=1), mode="r").R
    return factor


def _transfer(stage: Stage, points: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """With M = (T−μ)⁻¹Bᵀ: EM (p, e, w), 1 + MᵀM (p, w, w), and the rounding of shares (p, e, e).

    E picks the stage's carried and fresh rows. Distances |λ − μ| are at least the noise.
    """
    coupled, squares = _coupled(stage), _squares(stage, points, noise)
    entries = stage.vectors[[*stage.carried, *stage.fresh]].T
    step = _weighted((points[:, None] - stage.values) / squares, entries, coupled)
    one = torch.eye(coupled.shape[1], dtype=torch.float64)
    matrix = one + _weighted(1 / squares, coupled, coupled)
    left = _weighted(noise**2 / squares, entries, entries)
    return step, matrix, left


def _coupled(stage: Stage) -> Tensor:
    """Bᵀ in the Ritz vectors (m, w)."""
    last = stage.coupling.shape[1]
    coupled: Tensor = stage.vectors[len(stage.vectors) - last :].T @ stage.coupling.T
    return coupled


def _squares(stage: Stage, points: Tensor, noise: float) -> Tensor:
    """(λ − μ)² of every point and Ritz value (p, m), kept positive."""
    return (points[:, None] - stage.values).square() + max(noise, _TINY) ** 2


def _weighted(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ diag(weights) right for each row of weights (p, m): (p, l, r), as one product."""
    pairs = (left[:, :, None] * right[:, None, :]).flatten(1)
    return (weights @ pairs).view(len(weights), left.shape[1], right.shape[1])
