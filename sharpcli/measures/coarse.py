"""Coarse to fine: the Ritz vectors of a subset of the data start the search on all of them.

A pass over all of the data costs what its products cost and, where graphs are not kept, making
them. Vectors that are nearly right let every pass go with many of them, so that few passes are
enough; the products stay about as many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.curvature import make_operator
from sharpcli.errors import SharpError, setting
from sharpcli.linalg.eigsh import eigsh
from sharpcli.objective.objective import Objective
from sharpcli.runtime.progress import Progress
from sharpcli.settings import CurvatureSettings

__all__ = ["Coarse", "coarse_start"]

# Ritz vectors beyond those that are wanted: the order of two may differ on all of the data.
_EXTRA = 3
# What a subset's vectors are off for their data's sake is more than this residual.
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Coarse:
    """Rows (b, n) near the wanted eigenvectors, and what they cost."""

    start: Tensor
    examples: int
    products: int


def coarse_start(
    objective: Objective,
    theta: Tensor,
    curvature: CurvatureSettings,
    k: int,
    smallest: int,
    *,
    share: float,
    rows: int,
    seed: int,
    progress: Progress,
) -> Coarse:
    """Ritz vectors of both ends on a `share` of the data, drawn by the seed.

    `rows` bounds the basis. Cost: `products` on `examples`.
    """
    whole = objective.rows
    if whole.fixed_batch is not None:
        raise SharpError(
            f"{setting('coarse')} takes a part of the data, and {setting('fixed_batch')} says that "
            "the loss is defined on batches of all of them",
            f"leave {setting('coarse')} out",
        )
    count = max(1, min(whole.count, round(share * whole.count)))
    order = torch.randperm(whole.count, generator=torch.Generator().manual_seed(seed))
    subset = whole.take(order[:count].sort().values)
    part = Objective(objective.network, subset, objective.fixed, memory=objective.memory)
    operator = make_operator(part, theta, curvature)
    top = min(k + _EXTRA, part.size - smallest)
    try:
        found = eigsh(
            operator,
            top,
            smallest=smallest,
            tolerance=_TOLERANCE,
            max_basis=rows,
            seed=seed + 1,
            progress=progress,
        )
    finally:
        operator.release()
    basis = found.krylov.basis
    return Coarse(torch.cat([basis[:top], basis[len(basis) - smallest :]]), count, found.products)
