"""The loss surface around a checkpoint, for `sharp landscape`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sharpcli.checkpoint import Checkpoint
from sharpcli.documents.grids import Axis, Explored
from sharpcli.documents.results import Report
from sharpcli.errors import UsageError, setting
from sharpcli.landscape.directions import check_normalization, cosine
from sharpcli.landscape.frame import Frame, around
from sharpcli.landscape.grid import axis_values
from sharpcli.landscape.points.evaluator import Anchors
from sharpcli.landscape.points.walk import Watch
from sharpcli.landscape.trajectory import project
from sharpcli.runs.direction_kinds import DirectionKind, direction_kind
from sharpcli.runs.exploration import Beside, Exploration, begin_exploration, exploring, report
from sharpcli.runs.hessian_map import map_hessian
from sharpcli.runs.in_memory import as_checkpoint, given, run_of, with_notes
from sharpcli.runs.points import around_all, explore_grid
from sharpcli.settings.exploring import DirectionSettings, GridSettings, LandscapeSettings
from sharpcli.settings.measuring import RunSettings
from sharpcli.tasks import Task

__all__ = ["landscape_checkpoint", "landscape_model"]

# In units of the directions: these have the weights' norm if filter-normalised (Li et al. 2018),
# and norm one if they are unit vectors.
_AROUND = (-1.0, 1.0)


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

    Arguments are as for `interpolate_checkpoints`.

    A `UsageError` says that the kind of directions is unknown or needs a path that `beside` lacks,
    or that the options exclude each other.

    Cost: as for `interpolate_checkpoints`; Hessian directions cost about fifteen Hessian-vector
    products more.
    """
    settings, watch = settings or LandscapeSettings(), watch or Watch()
    return _landscape(path, task, task_options, run, settings, beside or Beside(), watch)


def landscape_model(
    model: nn.Module,
    train: Any,
    test: Any = None,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    predict: Callable[[nn.Module, Any], Any] | None = None,
    metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    samples: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    run: RunSettings | None = None,
    settings: LandscapeSettings | None = None,
    watch: Watch | None = None,
) -> Report:
    """Loss and metrics on a line or a plane around a model in memory.

    The model is copied, and stays as it is.

    Args:
        model: with the weights in the middle.
        train: training data, as for `measure_model`.
        test: test data of the same form.
        loss: as for `measure_model`.
        predict: as for `measure_model`.
        metrics: as for `measure_model`.
        collate: as for `measure_model`.
        samples: size of a random subset of each split, in place of that in `run`.
        device: where it is computed, in place of that in `run`.
        dtype: in which precision, in place of that in `run`.
        seed: of everything random, in place of that in `run`.
        run: the data (default: training and test data), the device and the precision.
        settings: the directions and the grid.
        watch: receives progress and messages.

    Errors and cost are those of `landscape_checkpoint`.
    """
    made = given(model, train, test, loss=loss, predict=predict, metrics=metrics, collate=collate)
    run = run_of(
        run, RunSettings(split="both"), samples=samples, device=device, dtype=dtype, seed=seed
    )
    checkpoint = as_checkpoint(model, made.task.name)
    settings, watch = settings or LandscapeSettings(), watch or Watch()
    report = _landscape(checkpoint, made.task, None, run, settings, Beside(), watch)
    return with_notes(report, made.notes)


def _landscape(
    path: str | Path | Checkpoint,
    task: str | Path | Task | None,
    task_options: Mapping[str, str] | None,
    run: RunSettings | None,
    settings: LandscapeSettings,
    beside: Beside,
    watch: Watch,
) -> Report:
    directions = settings.directions
    if run is not None and run.parameters and (beside.marks or beside.trajectories):
        option = setting("marks" if beside.marks else "trajectories")
        raise UsageError(
            f"{setting('parameters')} and {option} exclude each other: other checkpoints differ in "
            "the parameters that stay as they are",
            "leave one of them out",
        )
    if settings.map == "hessian":
        run = run or RunSettings(split="train")
        if run.split == "both":  # the Hessian is that of one loss
            run = replace(run, split="train")
    kind = direction_kind(directions.kind)
    normalize = directions.normalize or kind.normalize
    check_normalization(normalize)
    if kind.needs_path and not any(beside.trajectories):
        raise UsageError(
            f"{setting('directions', kind.name)} needs the path whose axes are to be drawn",
            f"name its checkpoints by {setting('trajectories')}, A as the last",
        )
    settings.grid.limits((_AROUND,) * directions.dimensions)
    with exploring(task, task_options, run, watch) as studies:
        this = begin_exploration(
            "landscape", [path], beside, studies, settings, directions.dimensions, watch
        )
        found = _explore_around(
            this, kind, directions, normalize, settings.grid, mapped=settings.map == "hessian"
        )
        return report(this, found)


def _explore_around(
    this: Exploration,
    kind: DirectionKind,
    settings: DirectionSettings,
    normalize: str,
    grid: GridSettings,
    *,
    mapped: bool = False,
) -> Explored:
    center = this.anchors[0]
    directions = kind.directions(this, settings, normalize)
    vectors = [direction.vector for direction in directions]
    frame = around(center.theta, vectors)
    limits = grid.limits(_default_limits(this, frame, kind))
    axes = [
        Axis(
            name=name,
            meaning=direction.meaning,
            eigenvalue=direction.eigenvalue,
            values=axis_values(*limit, points),
            norm=float(direction.vector.double().norm()),
        )
        for name, direction, limit, points in zip(
            ("alpha", "beta"), directions, limits, grid.shape(settings.dimensions), strict=False
        )
    ]
    anchors = Anchors(frame.anchors, [this.buffers(center), *[None] * len(vectors)])
    points = explore_grid(this, frame, anchors, axes, "surface")
    tol = settings.tol if settings.kind == "hessian" else None
    found = map_hessian(this, frame, anchors, axes, tol) if mapped else None
    between = cosine(*vectors) if len(vectors) == 2 else None
    return Explored(
        **this.drawn(points),
        cosine=between,
        directions=kind.name,
        normalize=normalize,
        hessian=found,
    )


def _default_limits(
    this: Exploration, frame: Frame, kind: DirectionKind
) -> tuple[tuple[float, float], ...]:
    if not kind.needs_path:
        return (_AROUND,) * frame.dimensions
    points = [point for path in this.trajectories for _, point in path]
    return around_all((*frame.places, *project(points, frame).coordinates))
