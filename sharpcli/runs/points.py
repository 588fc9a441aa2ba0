"""Evaluate the points of a line or plane, and the checkpoints on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sharpcli.documents.grids import (
    Axis,
    ExploredCheckpoint,
    Place,
    Points,
    ProjectedPlace,
    Trajectory,
    TrajectoryPoint,
)
from sharpcli.documents.labels import named, path_labels
from sharpcli.errors import counted, setting
from sharpcli.landscape.findings import curves_of, measures_of, sampling_errors_of
from sharpcli.landscape.frame import Frame
from sharpcli.landscape.grid import grid_points
from sharpcli.landscape.points.evaluator import Anchors, Point, Surface, Values
from sharpcli.landscape.trajectory import Projection, project
from sharpcli.objective.checks import why_not_finite
from sharpcli.runs.exploration import NAMES, Exploration

__all__ = ["around_all", "explore_grid"]

# A plane extends beyond its checkpoints or path by this share of their extent, on each side.
_MARGIN = 0.2

Role = Literal["anchor", "center", "marked"]


def explore_grid(
    this: Exploration, frame: Frame, anchors: Anchors, axes: Sequence[Axis], part: str
) -> Points:
    """Evaluate every point of the grid, its checkpoints and paths."""
    points = list(grid_points([axis.values for axis in axes]))
    values = this.walk.values(part, anchors, points, frame.weights)
    checkpoints = _checkpoints(this, frame, anchors, dict(zip(points, values, strict=True)))
    trajectories, shown = _trajectories(this, frame)
    if shown is not None:
        axes = [
            replace(axis, explained_variance=share)
            for axis, share in zip(axes, shown.explained_variance, strict=True)
        ]
    _say_not_finite(this, values, part)
    _say_negative_variances(this, frame, anchors, points)
    return Points(
        checkpoints=checkpoints,
        shape=[len(axis.values) for axis in axes],
        axes=axes,
        coordinates=[Place(*point) for point in points],
        curves=curves_of(values),
        sampling_errors=sampling_errors_of(values),
        trajectories=trajectories,
        explained_variance=None if shown is None else shown.explained_together,
    )


def around_all(places: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """The smallest ranges that contain all places, widened on each side."""
    ranges = []
    for values in zip(*places, strict=True):
        low, high = min(values), max(values)
        margin = _MARGIN * (high - low) or 1.0
        ranges.append((low - margin, high + margin))
    return tuple(ranges)


def _checkpoints(
    this: Exploration, frame: Frame, anchors: Anchors, on_grid: Mapping[Point, Values | None]
) -> list[ExploredCheckpoint]:
    """The checkpoints that span the frame, and those marked on it."""
    own: Role = "anchor" if this.kind == "interpolate" else "center"
    places = [(own, name, place, 0.0) for name, place in zip(NAMES, frame.places, strict=False)]
    if this.marks:
        marked = project([each.theta for each in this.marks], frame)
        pairs = zip(marked.coordinates, marked.unseen, strict=True)
        places += [("marked", f"M{i}", *pair) for i, pair in enumerate(pairs, 1)]
    network, found = this.study.network, []
    for index, (loaded, (role, name, place, unseen)) in enumerate(
        zip((*this.anchors, *this.marks), places, strict=True)
    ):
        checkpoint, measures, on_surface = loaded.checkpoint, None, None
        if not this.walk.interrupted:
            here = on_grid.get(place) or this.surface.at(anchors, _weights(frame, index, place))
            alone = here
            if role == "marked" or this.surface.batch_norm is not None:
                at = Anchors(loaded.theta.unsqueeze(0), [this.buffers(loaded)])
                plain = Surface(this.surface.objectives)
                alone = plain.at(at, torch.ones(1, dtype=torch.float64))
            doubted = {k: each.rows.doubt for k, each in this.surface.objectives.items()}
            measures, on_surface = measures_of(alone, doubted), measures_of(here, doubted)
        found.append(
            ExploredCheckpoint(
                name=name,
                path=str(checkpoint.path),
                sha256=checkpoint.sha256,
                parameters=network.size,
                metadata=checkpoint.metadata,
                notes=loaded.notes,
                role=role,
                coordinates=ProjectedPlace(*place),
                unseen=unseen,
                measures=measures,
                on_surface=on_surface,
                parameters_in_all=loaded.description().get("parameters_in_all"),
            )
        )
    return found


def _weights(frame: Frame, index: int, place: Sequence[float]) -> Tensor:
    """The anchors' weights at a checkpoint's place, with no rounding where it is an anchor."""
    if index >= len(frame.places):
        return frame.weights(place)
    weights = torch.zeros_like(frame.origin)
    weights[index] = 1
    return weights


def _trajectories(this: Exploration, frame: Frame) -> tuple[list[Trajectory], Projection | None]:
    """The coordinates of each path's points, and the share of the paths that the axes show."""
    points = [theta for path in this.trajectories for _, theta in path]
    if not points:
        return [], None
    shown = project(points, frame)
    places = zip(shown.coordinates, shown.unseen, strict=True)
    labels = path_labels([[path for path, _ in each] for each in this.trajectories])
    found = [
        Trajectory(
            name,
            [
                TrajectoryPoint(path, ProjectedPlace(*place), unseen)
                for (path, _), (place, unseen) in zip(each, places, strict=False)
            ],
        )
        for name, each in zip(labels, this.trajectories, strict=True)
    ]
    if shown.explained_together < 0.5:
        this.warnings.append(
            f"the {('line', 'plane')[frame.dimensions - 1]} shows "
            f"{shown.explained_together:.0%} of the path's variance: where its points lie is "
            "mostly not to be seen here (a landscape with "
            f"{setting('directions.kind', 'trajectory')} shows the most)"
        )
    return found, shown


def _say_not_finite(this: Exploration, values: Sequence[Values | None], part: str) -> None:
    for split in this.surface.objectives:
        losses = [each[split]["loss"].value for each in values if each is not None]
        bad = sum(not math.isfinite(loss) for loss in losses)
        if not bad:
            continue
        points = counted(len(losses), "point")
        said = f"the {split} loss is not finite at {bad:,} of {points} of the {part}"
        if bad == len(losses):
            what, hint = why_not_finite(this.surface.objectives[split], this.anchors[0].theta)
            said += f": {what}; {hint}"
        this.warnings.append(said)


def _say_negative_variances(
    this: Exploration, frame: Frame, anchors: Anchors, points: Sequence[Point]
) -> None:
    norm = this.surface.batch_norm
    if norm is None or norm.mode != "interpolate":
        return
    found = [anchors.negative_variances(frame.weights(point)) for point in points]
    names = dict.fromkeys(name for each in found for name in each)
    if names:
        count = sum(map(bool, found))
        this.warnings.append(
            f"batch norm: interpolated variances are negative at {count} of "
            f"{counted(len(points), 'point')} "
            f"and set to 0 there ({named([*names])}): the loss at these points means nothing"
        )
