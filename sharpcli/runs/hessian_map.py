"""Both ends of the Hessian's spectrum at every point of a line or plane (Li et al. 2018, §6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sharpcli.documents.grids import Axis, HessianMap
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import NOT_CONVERGED, Status
from sharpcli.errors import SharpError, counted
from sharpcli.landscape.frame import Frame
from sharpcli.landscape.grid import grid_points
from sharpcli.landscape.points.evaluator import Anchors
from sharpcli.measures.context import Context
from sharpcli.measures.hessian import numbers_of
from sharpcli.objective.objective import Objective
from sharpcli.runs.exploration import Exploration
from sharpcli.runs.preflight import check_curvature
from sharpcli.runtime import interruption
from sharpcli.runtime.processes import share
from sharpcli.settings.measuring import MeasureSettings

__all__ = ["map_hessian"]

_PART = "hessian"
# Residual as a fraction of λ1: what a map's colours can show.
_TOLERANCE = 0.05
# Products at a point; where λmin lies in the bulk at zero its search would go on for hundreds.
_MOST_PRODUCTS = 150
_KEPT = ("value", "error", "error_kind", "status", "advice")


def map_hessian(
    this: Exploration, frame: Frame, anchors: Anchors, axes: Sequence[Axis], tol: float | None
) -> HessianMap:
    """λ1, λmin and |λmin/λ1| at every grid point, with errors and statuses.

    Finished points are kept in the journal, as those of the loss are. A point whose loss is not
    finite has no value, and the others are computed.

    Cost: about 30 to 60 Hessian-vector products for each point.
    """
    points = list(grid_points([axis.values for axis in axes]))
    found: list[Mapping[str, Any] | None] = [None] * len(points)
    journal, products = this.walk.watch.journal, 0
    for first, (kept,) in share(journal.finished(_PART) if journal else {}).items():
        found[first] = kept
    check = check_curvature(this.study, this.anchors[0].match.tensors, this.warnings)
    progress = this.walk.watch.begin("hessian: points")
    done = sum(each is not None for each in found)
    progress(done, len(points))
    try:
        for index, point in enumerate(points):
            if found[index] is not None or this.walk.interrupted:
                continue
            values = _at(this, anchors, frame, point, check, tol or _TOLERANCE)
            with interruption.deferred():  # in the result, on disk and counted, or in none
                found[index] = values
                if journal is not None:
                    journal.add(_PART, index, [values])
                done += 1
            progress(done, len(points))
    except KeyboardInterrupt:
        said = f"interrupted after {done} of {counted(len(points), 'point')} of the Hessian's map"
        this.walk.interrupted = said
    products = sum(each["products"] for each in found if each is not None)
    columns = {
        name: [None if each is None else Scalar(**each[name]) for each in found]
        for name in ("largest", "smallest")
    }
    ratios = [
        None if a is None or b is None else ratio_of(b, a)
        for a, b in zip(columns["largest"], columns["smallest"], strict=True)
    ]
    missed = sum(each is not None and each.status in NOT_CONVERGED for each in ratios)
    if missed:
        this.warnings.append(
            f"|λmin/λ1| did not converge at {missed} of {counted(len(points), 'point')} of the map"
        )
    return HessianMap(**columns, ratio=ratios, products=products)


def ratio_of(smallest: Scalar, largest: Scalar) -> Scalar:
    """|λmin/λ1| with the error of both; no value where λ1 is not above zero."""
    low, high = smallest.value, largest.value
    statuses = [each.status for each in (largest, smallest) if each.status in NOT_CONVERGED]
    status = statuses[0] if statuses else Status.CONVERGED
    if low is None or high is None or high <= 0:
        return Scalar(None, None, None, Status.NOT_FINITE)
    ratio = abs(low / high)
    error = math.hypot((smallest.error or 0.0) / high, ratio * (largest.error or 0.0) / high)
    return Scalar(ratio, error, "residual", status)


def _at(
    this: Exploration, anchors: Anchors, frame: Frame, point: Any, check: Any, tol: float
) -> dict[str, Any]:
    """Both ends at one point, as plain values for the journal."""
    split = next(iter(this.surface.objectives))
    objective = this.surface.objectives[split]
    theta, fixed = this.surface.place(anchors, frame.weights(point))
    here = Objective(objective.network, objective.rows, fixed, batch_size=this.study.run.batch_size)
    settings = MeasureSettings(top=1, tol=tol, max_products=_MOST_PRODUCTS)
    context = Context(
        here, {split: here}, theta, settings, seed=this.study.run.seed, self_check=check
    )
    try:
        eigenvalues = context.eigenvalues
        numbers = numbers_of(context, eigenvalues)
        values = {"largest": numbers["eigenvalues"][0], "smallest": numbers["smallest"]}
        products = eigenvalues.products
    except SharpError as error:
        lost = Scalar(None, None, None, Status.NOT_FINITE, error.message)
        values, products = {"largest": lost, "smallest": lost}, 0
    finally:
        context.release()
    plain = {
        name: {key: each for key, each in asdict(scalar).items() if key in _KEPT}
        for name, scalar in values.items()
    }
    return {**plain, "products": products}
