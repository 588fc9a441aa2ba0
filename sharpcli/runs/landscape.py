"""What lies between checkpoints and around one: the calls behind `interpolate` and `landscape`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.labels import named
from sharpcli.documents.results import Report
from sharpcli.errors import SharpError, UsageError, counted, setting
from sharpcli.landscape.directions import (
    check_normalization,
    cosine,
    hessian_directions,
    normalize_direction,
    random_directions,
)
from sharpcli.landscape.frame import Frame, around, plane_through
from sharpcli.landscape.grid import axis_values, check_line
from sharpcli.landscape.points.evaluator import Anchors
from sharpcli.landscape.points.walk import Watch
from sharpcli.landscape.trajectory import principal_axes, project
from sharpcli.objective.objective import Objective
from sharpcli.runs.exploration import Beside, Exploration, begin_exploration, explore_grid, report
from sharpcli.runs.lines import explore_line
from sharpcli.runs.study import Studies, check_curvature, resolve_device, said_by_torch
from sharpcli.runtime.randomness import global_random_state_kept
from sharpcli.settings import (
    DirectionSettings,
    GridSettings,
    InterpolateSettings,
    LandscapeSettings,
    RunSettings,
)
from sharpcli.tasks import Task

__all__ = ["interpolate_checkpoints", "landscape_checkpoint"]

# In units of the directions: as long as the weights where filter-normalised (Li et al. 2018), a
# distance of one for unit vectors.
_AROUND = (-1.0, 1.0)
# Share of what is to be seen (three checkpoints, a path) that a plane shows beyond it on each side.
_MARGIN = 0.2
# |cosine| above which axes are said not to be orthogonal: rounding leaves 1e-7 in float32.
_ORTHOGONAL = 1e-3


def interpolate_checkpoints(
    paths: Sequence[str | Path],
    task: str | Path | Task | None = None,
    task_options: Mapping[str, str] | None = None,
    run: RunSettings | None = None,
    settings: InterpolateSettings | None = None,
    *,
    beside: Beside | None = None,
    watch: Watch | None = None,
) -> Report:
    """Loss and metrics on the line through two checkpoints, or the plane through three.

    With two, `settings` may ask for the line to B with its hidden units permuted to match A's, and
    for a trained curved path. The watch's journal keeps finished points on disk; it is left there,
    to be discarded once the report is where it belongs. Parameters, buffers and the global random
    states stay as they are. Raises `SharpError` where a checkpoint cannot be read or the three
    span no plane. Cost: a forward pass over each split a point, and one over training data where
    batch-norm statistics are recalibrated.
    """
    settings, watch = settings or InterpolateSettings(), watch or Watch()
    if run is not None and run.parameters:
        raise UsageError(
            f"{setting('parameters')}: between checkpoints all parameters move",
            "sharp landscape draws the parameters that match around one checkpoint",
        )
    if len(paths) not in (2, 3):
        raise UsageError(
            f"{counted(len(paths), 'checkpoint')}: a line leads through two, a plane through three",
            "sharp interpolate a.safetensors b.safetensors",
        )
    if len(paths) == 3 and (settings.align or settings.path):
        option = setting("align" if settings.align else "path")
        raise UsageError(f"{option} is for the line between two checkpoints", "leave C out")
    limits = settings.grid.limits(((0.0, 1.0),) * (len(paths) - 1))
    if len(paths) == 2 and settings.grid.ranges:
        check_line(*limits[0], settings.grid.shape(1)[0])
    with _kept(watch):
        studies = _studies(task, task_options, run, watch)
        this = begin_exploration(
            "interpolate", paths, beside or Beside(), studies, settings, len(paths) - 1, watch
        )
        if len(paths) == 3:
            _explore_plane(this, settings.grid)
        else:
            explore_line(this, settings)
        return report(this)


def landscape_checkpoint(
    path: str | Path,
    task: str | Path | Task | None = None,
    task_options: Mapping[str, str] | None = None,
    run: RunSettings | None = None,
    settings: LandscapeSettings | None = None,
    *,
    beside: Beside | None = None,
    watch: Watch | None = None,
) -> Report:
    """Loss and metrics on a line or a plane around one checkpoint.

    Arguments and cost as for `interpolate_checkpoints`; Hessian directions cost about fifteen
    Hessian-vector products more. Raises `UsageError` where the axes of a path are asked for and
    `beside` holds none.
    """
    settings, watch = settings or LandscapeSettings(), watch or Watch()
    directions, beside = settings.directions, beside or Beside()
    if run is not None and run.parameters and (beside.marks or beside.trajectories):
        option = setting("marks" if beside.marks else "trajectories")
        raise UsageError(
            f"{setting('parameters')} and {option} exclude each other: other checkpoints differ in "
            "the parameters that stay as they are",
            "leave one of them out",
        )
    normalize = directions.normalize or ("filter" if directions.kind == "random" else "none")
    check_normalization(normalize)
    if directions.kind == "trajectory" and not any(beside.trajectories):
        raise UsageError(
            f"{setting('directions', 'trajectory')} needs the path whose axes are to be drawn",
            f"name its checkpoints, A as the last: {setting('trajectories', 'step-*.safetensors')}",
        )
    settings.grid.limits((_AROUND,) * directions.dimensions)
    with _kept(watch):
        studies = _studies(task, task_options, run, watch)
        this = begin_exploration(
            "landscape", [path], beside, studies, settings, directions.dimensions, watch
        )
        _explore_around(this, directions, normalize, settings.grid)
        return report(this)


@contextlib.contextmanager
def _kept(watch: Watch) -> Iterator[None]:
    """Leave the global random states as they are, and the journal's file closed.

    Raises `SharpError` where there is no folder for it, and where memory runs out.
    """
    if watch.journal is not None:
        watch.journal.check()
    try:
        with global_random_state_kept():
            yield
    except RuntimeError as error:
        said = said_by_torch(error)
        if said is None:
            raise
        raise SharpError(said.message, said.hint) from error
    finally:
        if watch.journal is not None:
            watch.journal.close()


def _studies(
    task: str | Path | Task | None,
    task_options: Mapping[str, str] | None,
    run: RunSettings | None,
    watch: Watch,
) -> Studies:
    run = run or RunSettings(split="both")
    return Studies(task, task_options or {}, run, resolve_device(run.device), watch.begin)


def _explore_plane(this: Exploration, grid: GridSettings) -> None:
    frame = plane_through(*(each.theta for each in this.anchors))
    limits = grid.limits(_around_all(frame.places))
    meanings = ("along the line from A to B", "away from that line, towards C")
    axes = [
        {"name": name, "values": axis_values(*limit, points), "meaning": meaning, "norm": 1.0}
        for name, limit, points, meaning in zip(
            ("alpha", "beta"), limits, grid.shape(2), meanings, strict=True
        )
    ]
    anchors = Anchors(frame.anchors, [this.buffers(each) for each in this.anchors])
    this.found["cosine"] = 0.0  # by construction
    explore_grid(this, frame, anchors, axes, "plane")


def _explore_around(
    this: Exploration, settings: DirectionSettings, normalize: str, grid: GridSettings
) -> None:
    center = this.anchors[0]
    axes: list[dict[str, Any]] = [{"name": "alpha"}, {"name": "beta"}][: settings.dimensions]
    directions = _directions(this, settings, normalize, axes)
    frame = around(center.theta, directions)
    limits = grid.limits(_default_limits(this, frame, settings.kind))
    for axis, direction, limit, points in zip(
        axes, directions, limits, grid.shape(settings.dimensions), strict=True
    ):
        axis["values"] = axis_values(*limit, points)
        axis["norm"] = float(direction.double().norm())
    if len(directions) == 2:
        this.found["cosine"] = between = cosine(*directions)
        if settings.kind == "random" and abs(between) > _ORTHOGONAL:
            this.warnings.append(
                f"the axes are not orthogonal (cosine {between:.3g}): nearly all of the weights' "
                "norm is in a filter of a single weight, which has one direction"
            )
    this.found |= {"directions": settings.kind, "normalize": normalize}
    anchors = Anchors(frame.anchors, [this.buffers(center), *[None] * len(directions)])
    explore_grid(this, frame, anchors, axes, "surface")


def _directions(
    this: Exploration,
    settings: DirectionSettings,
    normalize: str,
    axes: list[dict[str, Any]],
) -> list[Tensor]:
    """The axes (n,) around the checkpoint; says what each is in `axes`."""
    network, theta, count = this.study.network, this.anchors[0].theta, settings.dimensions
    seed = this.study.run.seed
    if settings.kind == "random":
        for axis in axes:
            axis["meaning"] = "a random direction"
        return random_directions(network, theta, count, seed=seed, normalize=normalize)
    if settings.kind == "hessian":
        objective = _at_center(this)
        found = hessian_directions(
            objective,
            theta,
            count,
            seed=seed,
            tol=settings.tol,
            max_products=settings.max_products,
            self_check=check_curvature(this.study, this.anchors[0].match.tensors, this.warnings),
            progress=this.walk.watch.begin("eigenvectors of the Hessian"),
        )
        this.warnings += found.warnings
        for rank, (axis, value) in enumerate(zip(axes, found.eigenvalues, strict=True), 1):
            axis |= {"meaning": f"eigenvector {rank} of the Hessian", "eigenvalue": value}
        drawn: Sequence[Tensor] = found.directions
    else:
        points = [point for path in this.trajectories for _, point in path]
        principal = principal_axes(points, theta, count)
        if not any(path and torch.equal(path[-1][1], theta) for path in this.trajectories):
            said = "the path does not end" if len(this.trajectories) == 1 else "no path ends"
            this.warnings.append(
                f"{said} at A: its axes are still taken about A (name the path's last checkpoint "
                "as A, or A as the path's last)"
            )
        for rank, axis in enumerate(axes, 1):
            axis["meaning"] = f"principal axis {rank} of the path"
        drawn = principal.directions
    return [normalize_direction(network, theta, each, normalize) for each in drawn]


def _at_center(this: Exploration) -> Objective:
    """The objective that is drawn (training data, unless others were asked for) at the center."""
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


def _default_limits(this: Exploration, frame: Frame, kind: str) -> tuple[tuple[float, float], ...]:
    if kind != "trajectory":
        return (_AROUND,) * frame.dimensions
    points = [point for path in this.trajectories for _, point in path]
    return _around_all((*frame.places, *project(points, frame).coordinates))


def _around_all(places: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """The smallest ranges that hold all places, widened on each side."""
    ranges = []
    for values in zip(*places, strict=True):
        low, high = min(values), max(values)
        margin = _MARGIN * (high - low) or 1.0
        ranges.append((low - margin, high + margin))
    return tuple(ranges)
