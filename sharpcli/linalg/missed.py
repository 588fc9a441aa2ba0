"""How likely a Krylov space from a random start has missed an eigenvalue, read off the space.

Let Q be the basis with A Qᵀ = Qᵀ T + Fᵀ B + N, and u a unit eigenvector of A with eigenvalue μ.
Its coordinates y = Q u and z = F u satisfy (T − μ) y = −Bᵀ z − Nᵀ u with ‖y‖² + ‖z‖² ≤ 1. So the
coordinates of u in the random start, some entries of y, lie in an ellipsoid S(μ) that is known.
Away from the Ritz values it is exponentially small: for a single start it is the Christoffel
function of the Lanczos polynomials, the largest weight that a spectrum with the same moments can
have at μ. But the start was random: each coordinate is normal with variance 1/n, and lies in a
small ellipsoid with a small probability only. No product is spent on this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Stage", "hidden_shares", "missed_probability"]

# Keeps distances from Ritz values off zero where rounding is said to leave nothing.
_TINY = math.sqrt(torch.finfo(torch.float64).tiny)
# Beside a pole of M, where 1 + MᵀM has an entry as large as this, rounding of it would show.
_POLE = 1e8
# Numbers of a table of points by Ritz values that are worked on together: 16 MB.
_ENTRIES = 2**21


@dataclass(frozen=True)
class Stage:
    """A Krylov space between two restarts.

    `values` (m,) and `vectors` (m, m) are those of T, `coupling` the columns of B (w, c) that
    belong to the last c rows of the basis (the others are zero). `carried` are the rows of the
    basis that were pending when the stage began, `fresh` those that were drawn at random in it.
    """

    values: Tensor
    vectors: Tensor
    coupling: Tensor
    carried: Sequence[int]
    fresh: Sequence[int]


def hidden_shares(stages: Sequence[Stage], points: Tensor, noise: float) -> Tensor:
    """Squared half-axes of S(μ) at each of `points` (p,), in descending order: (p, random rows).

    `stages` are in the order in which they ran; `noise` bounds ‖N u‖, what rounding leaves in the
    recurrence along an eigenvector. Cost: m·(random rows)²·p operations.
    """
    few = torch.split(points, max(1, _ENTRIES // max(len(stage.vectors) for stage in stages)))
    return torch.cat([_hidden_shares(stages, each, noise) for each in few])


def _hidden_shares(stages: Sequence[Stage], points: Tensor, noise: float) -> Tensor:
    """The same for as many points as memory has room for."""
    *before, last = stages
    shares = _shares(last, points, noise)
    # What is known of the rows that were pending at a restart is what the next stage says of those
    # it carried.
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
        # Beside a pole of the first stage, that one alone may say more than all together.
        alone = torch.linalg.eigvalsh(_shares(stages[0], points, noise)).flip(-1).clamp_min(0)
        if alone.shape == found.shape:
            found = torch.minimum(found, alone)
    return found


def missed_probability(shares: Tensor, accounted: int, size: int) -> Tensor:
    """The probability (p,) that a random start hides one eigenvector more than are `accounted` for.

    `shares` (p, r) as `hidden_shares` gives them, of vectors with `size` entries. Accounted
    eigenvectors may fill the longest axes; a further one must then lie within the others: a χ² with
    as many degrees of freedom as axes are left. 1 where none is left.
    """
    left = shares.shape[-1] - accounted
    if left <= 0:
        return torch.ones(len(shares), dtype=torch.float64)
    freedom = torch.full((), left / 2, dtype=torch.float64)
    chance: Tensor = torch.special.gammainc(freedom, size * shares[:, accounted] / 2)
    return chance


def _shares(stage: Stage, points: Tensor, noise: float) -> Tensor:
    """S(μ) of the stage's carried and fresh rows by its own recurrence (p, e, e)."""
    step, matrix, left = _transfer(stage, points, noise)
    # ‖y‖² + ‖z‖² ≤ 1 is zᵀ(1 + MᵀM)z ≤ 1; beside a pole that matrix is known by its factor only.
    factor = torch.linalg.cholesky_ex(matrix).L.mT
    beside = (matrix.diagonal(dim1=1, dim2=2).amax(1) > _POLE).nonzero().ravel()
    for few in torch.split(beside, max(1, _ENTRIES // stage.vectors.shape[0])):
        factor[few] = _factor(stage, points[few], noise)
    axes = torch.linalg.solve_triangular(factor.mT, step.mT, upper=False)
    shares: Tensor = axes.mT @ axes + left
    return shares


def _factor(stage: Stage, points: Tensor, noise: float) -> Tensor:
    """R (p, w, w) with RᵀR = 1 + MᵀM, to the last digit."""
    coupled, squares = _coupled(stage), _squares(stage, points, noise)
    inside = coupled / squares.sqrt()[..., None]
    one = torch.eye(inside.shape[-1], dtype=torch.float64).expand(len(points), -1, -1)
    factor: Tensor = torch.linalg.qr(torch.cat([inside, one], dim=1), mode="r").R
    return factor


def _transfer(stage: Stage, points: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """With M = (T−μ)⁻¹Bᵀ: EM (p, e, w), 1 + MᵀM (p, w, w), what rounding adds to shares (p, e, e).

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
    """(λ − μ)² of every point and Ritz value (p, m), kept off zero."""
    return (points[:, None] - stage.values).square() + max(noise, _TINY) ** 2


def _weighted(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ diag(weights) right for each row of weights (p, m): (p, l, r), as one product."""
    pairs = (left[:, :, None] * right[:, None, :]).flatten(1)
    return (weights @ pairs).view(len(weights), left.shape[1], right.shape[1])
