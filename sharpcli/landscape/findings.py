"""The values at points, converted for a document: curves, barriers, a checkpoint's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sharpcli.documents.grids import Barrier, Curves, Rise, SamplingCurves
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import SharpError
from sharpcli.landscape.barrier import Barrier as Highest
from sharpcli.landscape.barrier import barrier
from sharpcli.landscape.points.evaluator import Anchors, Surface, Values
from sharpcli.objective.means import Mean, mean_of, moments
from sharpcli.objective.reliability import sampling_status

__all__ = ["barriers", "curves_of", "measures_of", "sampling_errors_of"]


def curves_of(values: Sequence[Values | None]) -> Curves:
    """Loss and metrics by split, one number per point; None for a point that was not reached."""
    return _by_name(values, lambda mean: mean.value)


def sampling_errors_of(values: Sequence[Values | None]) -> SamplingCurves | None:
    """The sampling errors of `curves_of`; None if all examples were measured."""
    errors = _by_name(values, lambda mean: mean.sampling_error)
    sampled = {
        split: {n: e for n, e in each.items() if any(x is not None for x in e)}
        for split, each in errors.items()
    }
    return {split: each for split, each in sampled.items() if each} or None


def measures_of(values: Values, doubted: Mapping[str, str | None]) -> dict[str, dict[str, Scalar]]:
    """Loss and metrics → split → the number, as in the document of `sharp measure`.

    `doubted` has the reason, for each split, why sampling errors cannot be trusted, or None.
    """
    found: dict[str, dict[str, Scalar]] = {}
    for split, means in values.items():
        for name, mean in means.items():
            found.setdefault(name, {})[split] = _scalar(mean, doubted[split])
    return found


def barriers(
    surface: Surface,
    anchors: Anchors,
    weights: Callable[[Sequence[float]], Tensor],
    places: Sequence[float],
    curves: Curves,
    key: str,
) -> dict[str, Barrier]:
    """Each split's barrier in both conventions, with its place under the name `key`.

    On a subset of the data, the sampling error is that of the differences of each example's losses.
    A split whose ends were not reached or are not finite is left out.

    Cost: three forward passes for each sampling error.
    """
    found: dict[str, Barrier] = {}
    for split, curve in curves.items():
        reached = [(t, x) for t, x in zip(places, curve["loss"], strict=True) if x is not None]
        pair = [
            barrier(*zip(*reached, strict=True), convention=convention) if reached else None
            for convention in ("line", "mean")
        ]
        above_line, above_mean = pair
        if above_line is None or above_mean is None:
            continue
        errors = [
            _sampling_error(surface, anchors, weights, split, each, convention)
            for each, convention in ((above_line, "line"), (above_mean, "mean"))
        ]
        line, mean = (
            {"error_kind": "lower_bound", "status": Status.LOWER_BOUND, key: each.place, **error}
            for each, error in zip((above_line, above_mean), errors, strict=True)
        )
        above = Rise(above_mean.value, **mean)
        found[split] = Barrier(above_line.value, **line, above_mean=above)
    return found


def _sampling_error(
    surface: Surface,
    anchors: Anchors,
    weights: Callable[[Sequence[float]], Tensor],
    split: str,
    found: Highest,
    convention: str,
) -> dict[str, Any]:
    objective = surface.objectives[split]
    rows = objective.rows
    if not rows.sampled:
        return {}
    share = found.place if convention == "line" else 0.5
    try:
        top, start, stop = (
            surface.per_example(anchors, weights((t,)), split) for t in (found.place, 0.0, 1.0)
        )
    except SharpError:  # the loss gives one sum per batch, so there is no sampling error
        return {"sampling_status": SamplingStatus.UNRELIABLE}
    rise = top[0] - (1 - share) * start[0] - share * stop[0]
    mean = mean_of(moments(rise, top[1]).tolist(), rows.total, sampled=True)
    # At an end of the line the barrier is 0 in every sample.
    known = not mean.sampling_error and mean.value == 0
    status = None if known else sampling_status(rows.doubt, mean.carriers)
    return {"sampling_error": mean.sampling_error, "sampling_status": status}


def _by_name(values: Sequence[Values | None], of: Callable[[Mean], float | None]) -> dict[str, Any]:
    first = next((each for each in values if each is not None), {})
    return {
        split: {
            name: [None if each is None else of(each[split][name]) for each in values]
            for name in means
        }
        for split, means in first.items()
    }


def _scalar(mean: Mean, doubted: str | None) -> Scalar:
    error = mean.sampling_error
    if error is None:
        return Scalar(mean.value)
    status = sampling_status(doubted, mean.carriers)
    return Scalar(mean.value, error, "standard_error", sampling_error=error, sampling_status=status)
