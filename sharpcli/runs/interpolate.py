"""Loss between checkpoints, for `sharp interpolate`.

Two checkpoints give a line, the line to B aligned with A, and a curved path; three give a plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.checkpoint import Checkpoint
from sharpcli.documents.grids import Aligned, AnchoredAxis, CurvedPath, Interpolated, PathPlace
from sharpcli.documents.results import Report
from sharpcli.errors import SharpError, UsageError, counted, setting
from sharpcli.landscape.alignment.permutations import TRACED_EXAMPLES
from sharpcli.landscape.alignment.weight_matching import align
from sharpcli.landscape.curves import path_weights, train_path
from sharpcli.landscape.findings import barriers, curves_of
from sharpcli.landscape.frame import line, plane_through
from sharpcli.landscape.grid import axis_values, check_line, fewest_points, line_values
from sharpcli.landscape.points.evaluator import Anchors
from sharpcli.landscape.points.walk import Watch
from sharpcli.runs.exploration import Beside, Exploration, begin_exploration, exploring, report
from sharpcli.runs.in_memory import as_checkpoint, check_alike, given, run_of, with_notes
from sharpcli.runs.points import around_all, explore_grid
from sharpcli.settings.exploring import GridSettings, InterpolateSettings, PathSettings
from sharpcli.settings.measuring import RunSettings
from sharpcli.tasks import Task

__all__ = ["interpolate_checkpoints", "interpolate_models"]

# The range of Keskar et al. 2017, figures 3 and 4, and the range if the points are too few for it.
_LINE, _BETWEEN = (-1.0, 2.0), (0.0, 1.0)
# Examples on which the outputs before and after alignment are compared.
_COMPARED_EXAMPLES = 64


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

    The global random states do not change.

    Args:
        paths: Two or three checkpoints.
        task: A task or its name; by default the one in the first checkpoint's metadata.
        task_options: The task's options as text.
        run: Data, device and precision.
        settings: The grid. With two checkpoints also: the line to B with its hidden units permuted
            to match A's, and a trained curved path.
        beside: Checkpoints to mark and paths to project.
        watch: Its journal keeps finished points on disk; discard it once the report is saved.

    A `UsageError` says that the options exclude each other, or that the number of checkpoints is
    wrong. A `SharpError` says that a checkpoint cannot be read or that the three span no plane.

    Cost: a forward pass over each split per point, and one over training data if batch-norm
    statistics are recalibrated.
    """
    settings, watch = settings or InterpolateSettings(), watch or Watch()
    return _interpolated(paths, task, task_options, run, settings, beside, watch)


def interpolate_models(
    a: nn.Module,
    b: nn.Module,
    train: Any,
    test: Any = None,
    *,
    c: nn.Module | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    predict: Callable[[nn.Module, Any], Any] | None = None,
    metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    samples: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    run: RunSettings | None = None,
    settings: InterpolateSettings | None = None,
    watch: Watch | None = None,
) -> Report:
    """Loss and metrics on the line through two models in memory, or the plane through three.

    The models are copied, and stay as they are.

    Args:
        a: a model.
        b: another of the same architecture.
        train: training data, as for `measure_model`.
        test: test data of the same form.
        c: the third model of a plane.
        loss: as for `measure_model`.
        predict: as for `measure_model`.
        metrics: as for `measure_model`.
        collate: as for `measure_model`.
        samples: size of a random subset of each split, in place of that in `run`.
        device: where it is computed, in place of that in `run`.
        dtype: in which precision, in place of that in `run`.
        seed: of everything random, in place of that in `run`.
        run: the data (default: training and test data), the device and the precision.
        settings: the grid, and whether to align b or to train a path.
        watch: receives progress and messages.

    Errors and cost are those of `interpolate_checkpoints`.

    >>> import torch
    >>> from sharpcli import GridSettings, InterpolateSettings, interpolate_models
    >>> a, b = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
    >>> _ = torch.nn.init.constant_(a.weight, 1.0), torch.nn.init.constant_(b.weight, 3.0)
    >>> train = torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [2.0]])
    >>> def loss(outputs, batch):
    ...     return (outputs - batch[1]).square().sum(1)
    >>> settings = InterpolateSettings(GridSettings((3,), ((0.0, 1.0),)))
    >>> line = interpolate_models(a, b, train, loss=loss, settings=settings)
    >>> line.results[0].curves["train"]["loss"]
    [1.0, 0.0, 1.0]
    """
    models = {"a": a, "b": b} if c is None else {"a": a, "b": b, "c": c}
    check_alike(models)
    made = given(a, train, test, loss=loss, predict=predict, metrics=metrics, collate=collate)
    run = run_of(
        run, RunSettings(split="both"), samples=samples, device=device, dtype=dtype, seed=seed
    )
    checkpoints = [as_checkpoint(model, name) for name, model in models.items()]
    settings, watch = settings or InterpolateSettings(), watch or Watch()
    report = _interpolated(checkpoints, made.task, None, run, settings, None, watch)
    return with_notes(report, made.notes)


def _interpolated(
    paths: Sequence[str | Path | Checkpoint],
    task: str | Path | Task | None,
    task_options: Mapping[str, str] | None,
    run: RunSettings | None,
    settings: InterpolateSettings,
    beside: Beside | None,
    watch: Watch,
) -> Report:
    if run is not None and run.parameters:
        raise UsageError(
            f"{setting('parameters')}: between checkpoints all parameters move",
            "a landscape draws the parameters that match around one checkpoint",
        )
    if len(paths) not in (2, 3):
        raise UsageError(
            f"{counted(len(paths), 'checkpoint')}: a line leads through two, a plane through three",
            "name two or three",
        )
    if len(paths) == 3 and (settings.align or settings.path):
        option = setting("align" if settings.align else "path")
        raise UsageError(f"{option} is for the line between two checkpoints", "leave C out")
    limits = settings.grid.limits(((0.0, 1.0),) * (len(paths) - 1))
    if len(paths) == 2 and settings.grid.ranges:
        check_line(*limits[0], settings.grid.shape(1)[0])
    with exploring(task, task_options, run, watch) as studies:
        this = begin_exploration(
            "interpolate", paths, beside or Beside(), studies, settings, len(paths) - 1, watch
        )
        explore = _explore_line if len(paths) == 2 else _explore_plane
        return report(this, explore(this, settings))


def _explore_line(this: Exploration, settings: InterpolateSettings) -> Interpolated:
    """The line from A to B with its barrier, and if requested the aligned line and the path."""
    a, b = this.anchors
    frame = line(a.theta, b.theta)
    alphas = _alphas(this, settings.grid)
    distance = float((b.theta - a.theta).double().norm())
    axis = AnchoredAxis(name="alpha", values=alphas, meaning="from A (0) to B (1)", norm=distance)
    if distance == 0:
        this.notes.append("A and B hold the same parameters: the line between them is one point")
    anchors = Anchors(frame.anchors, [this.buffers(a), this.buffers(b)])
    points = explore_grid(this, frame, anchors, [axis], "line")
    barrier = barriers(this.surface, anchors, frame.weights, alphas, points.curves, "alpha")
    if not barrier and not this.walk.interrupted:
        why = "the loss is not finite at A or B"
        if not {0.0, 1.0} <= {*alphas}:
            option = setting("ranges" if settings.grid.ranges else "points")
            why = f"0 or 1 is not on the line ({option})"
        this.notes.append(f"no barrier: {why}")
    aligned, path, begun = None, None, "alignment"
    try:
        if settings.align and not this.walk.interrupted:
            aligned = _aligned(this, alphas)
        if settings.path is not None and not this.walk.interrupted:
            begun = "path's training"
            path = _curved(this, settings.path, len(alphas))
    except KeyboardInterrupt:
        this.walk.interrupted = f"interrupted before the {begun} was finished"
    return Interpolated(**this.drawn(points), barrier=barrier, aligned=aligned, path=path)


def _explore_plane(this: Exploration, settings: InterpolateSettings) -> Interpolated:
    """The plane through A, B and C."""
    frame, grid = plane_through(*(each.theta for each in this.anchors)), settings.grid
    limits = grid.limits(around_all(frame.places))
    meanings = ("along the line from A to B", "away from that line, towards C")
    axes = [
        AnchoredAxis(name=name, values=axis_values(*limit, points), meaning=meaning, norm=1.0)
        for name, limit, points, meaning in zip(
            ("alpha", "beta"), limits, grid.shape(2), meanings, strict=True
        )
    ]
    anchors = Anchors(frame.anchors, [this.buffers(each) for each in this.anchors])
    points = explore_grid(this, frame, anchors, axes, "plane")
    return Interpolated(**this.drawn(points), cosine=0.0)  # by construction


def _alphas(this: Exploration, grid: GridSettings) -> list[float]:
    """The points of the line; a note says if they are too few for the default range."""
    (points,) = grid.shape(1)
    ((low, high),) = grid.limits((_LINE,))
    fewest = fewest_points(low, high)
    if points >= fewest:
        return line_values(low, high, points)
    alphas = line_values(*_BETWEEN, points)  # an own range was refused
    this.notes.append(
        f"{setting('points', points)} is too few for the line from α = {low:g} to {high:g}, which "
        f"takes {fewest}: drawn at {', '.join(f'{alpha:g}' for alpha in alphas)}"
    )
    return alphas


def _aligned(this: Exploration, alphas: Sequence[float]) -> Aligned:
    """The line from A to B with its hidden units permuted to match A's."""
    a, b = this.anchors
    rows = next(iter(this.surface.objectives.values())).rows
    matched = align(
        this.study.network,
        rows.head(_COMPARED_EXAMPLES).batch,
        a.match.tensors,
        b.match.tensors,
        few=rows.head(TRACED_EXAMPLES).batch,
        seed=this.study.run.seed,
    )
    network = this.study.network
    frame = line(a.theta, network.flatten(matched.tensors))
    anchors = Anchors(frame.anchors, [this.buffers(a), network.fixed(matched.tensors)])
    values = this.walk.values("aligned line", anchors, [(t,) for t in alphas], frame.weights)
    curves = curves_of(values)
    return Aligned(
        curves=curves,
        barrier=barriers(this.surface, anchors, frame.weights, alphas, curves, "alpha"),
        norm=float((frame.anchors[1] - frame.anchors[0]).double().norm()),
        groups=matched.groups,
        moved=matched.moved,
        function_difference=matched.function_difference,
    )


def _curved(this: Exploration, settings: PathSettings, points: int) -> CurvedPath:
    """A trained path from A to B."""
    if this.train is None:
        raise SharpError("the path needs training data, but there are none", "")
    a, b = this.anchors
    path = train_path(
        this.train, a.theta, b.theta, settings, this.walk.watch.begin("training the path: steps")
    )
    ends = Anchors(torch.stack([a.theta, b.theta]), [this.buffers(a), this.buffers(b)])
    middle = ends.buffers(torch.tensor([0.5, 0.5]))
    anchors = Anchors(
        torch.stack([a.theta, path.bend, b.theta]), [this.buffers(a), middle, this.buffers(b)]
    )

    def weights(point: Sequence[float]) -> Tensor:
        return torch.tensor(path_weights(path.kind, point[0]), dtype=torch.float64)

    places = line_values(0.0, 1.0, max(points, 2))
    values = this.walk.values("path", anchors, [(t,) for t in places], weights)
    curves = curves_of(values)
    return CurvedPath(
        kind=path.kind,
        coordinates=[PathPlace(t) for t in places],
        curves=curves,
        barrier=barriers(this.surface, anchors, weights, places, curves, "t"),
        steps=path.steps,
    )
