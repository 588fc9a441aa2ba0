"""The Hessian's top eigenvectors as axes around a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.curvature import SelfCheck
from sharpcli.documents.labels import named
from sharpcli.documents.scalars import Scalar
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.landscape.directions import normalize_direction
from sharpcli.linalg.eigsh import eigsh
from sharpcli.linalg.orthogonal import extend
from sharpcli.measures.context import Context
from sharpcli.measures.hessian import numbers_of
from sharpcli.objective.objective import Objective
from sharpcli.runs.direction_kinds import Direction
from sharpcli.runs.exploration import Exploration
from sharpcli.runs.preflight import check_curvature
from sharpcli.runtime.progress import Progress, silent
from sharpcli.settings.exploring import DirectionSettings
from sharpcli.settings.measuring import MeasureSettings

__all__ = ["Eigenpairs", "directions", "top_eigenpairs"]


@dataclass(frozen=True)
class Eigenpairs:
    """Unit eigenvectors (n,) of the largest eigenvalues, and the eigenvalues with their errors."""

    vectors: tuple[Tensor, ...]
    eigenvalues: tuple[Scalar, ...]
    products: int
    warnings: tuple[str, ...]


def directions(this: Exploration, settings: DirectionSettings, normalize: str) -> list[Direction]:
    """Eigenvectors of the largest eigenvalues at the center, on training data if drawn."""
    objective, center = _at_center(this), this.anchors[0]
    found = top_eigenpairs(
        objective,
        center.theta,
        settings.dimensions,
        seed=this.study.run.seed,
        tol=settings.tol,
        max_products=settings.max_products,
        self_check=check_curvature(this.study, center.match.tensors, this.warnings),
        progress=this.walk.watch.begin("eigenvectors of the Hessian"),
    )
    this.warnings += found.warnings
    return [
        Direction(
            normalize_direction(this.study.network, center.theta, vector, normalize),
            f"eigenvector {rank} of the Hessian",
            eigenvalue,
        )
        for rank, (vector, eigenvalue) in enumerate(
            zip(found.vectors, found.eigenvalues, strict=True), 1
        )
    ]


def top_eigenpairs(
    objective: Objective,
    theta: Tensor,
    count: int = 2,
    *,
    seed: int = 0,
    tol: float = 1e-3,
    max_products: int | None = None,
    self_check: SelfCheck | None = None,
    progress: Progress = silent,
) -> Eigenpairs:
    """Eigenvectors of the `count` largest eigenvalues of ∇²L(θ), the directions of most curvature.

    The eigenvalues have residual, status and advice as in `sharp measure`; a failed `self_check`
    makes them suspect. Each eigenvector's largest entry is positive, which fixes its sign.

    Raises:
        SharpError: θ has fewer than `count` entries, or loss and derivatives are not finite.

    Cost: about 10 Hessian-vector products for one, 15 for two.
    """
    if objective.size < count:
        raise SharpError(
            f"the model has only {objective.size} parameter, so there is no plane around it",
            "draw a line",
        )
    settings = MeasureSettings(top=count, tol=tol, max_products=max_products)
    context = Context(
        objective, {}, theta, settings, seed=seed, self_check=self_check, progress=progress
    )
    try:
        # Without the smallest eigenvalue, which may take more products than all others together.
        found = eigsh(
            context.hessian,
            count,
            tolerance=tol,
            max_products=max_products,
            seed=seed,
            progress=progress,
        )
        numbers = numbers_of(context, found)
    finally:
        context.release()
    vectors, _ = extend(
        found.vectors.clone(), found.vectors[:0], 1.0, torch.Generator().manual_seed(seed)
    )
    signed = tuple(v if float(v[v.abs().argmax()]) > 0 else -v for v in vectors)
    return Eigenpairs(
        signed, tuple(numbers["eigenvalues"]), found.products, tuple(context.warnings)
    )


def _at_center(this: Exploration) -> Objective:
    """The objective to draw at the center: training data, unless only test data were requested.

    Raises:
        UsageError: a layer's batch statistics are not one mean and one variance.
    """
    center, norm = this.anchors[0], this.surface.batch_norm
    split = "train" if "train" in this.surface.objectives else next(iter(this.surface.objectives))
    objective = this.study.objectives(center.match.tensors)[split]
    if norm is None or norm.mode == "interpolate":
        return objective
    if norm.mode == "batch" and norm.several:
        raise UsageError(
            f"the Hessian's axes with {setting('batch_norm.mode', 'batch')}: "
            f"{named([c.layer for c in norm.several])} is called more than once in a forward "
            "pass, or normalises each example by itself, so its statistics of a batch are not "
            "one mean and one variance",
            f"use {setting('batch_norm.mode', 'recalibrate')}, or other {setting('directions')}",
        )
    fixed = this.surface.buffers_of(objective, center.theta, this.buffers(center))
    return Objective(objective.network, objective.rows, fixed, batch_size=this.study.run.batch_size)
