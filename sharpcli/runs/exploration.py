"""One exploration of parameter space: what is loaded, where points are evaluated, what is found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.environment import environment
from sharpcli.documents.labels import named, path_labels
from sharpcli.documents.results import Report
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import UsageError, counted, setting
from sharpcli.landscape.findings import curves_of, measures_of, sampling_errors_of
from sharpcli.landscape.frame import Frame
from sharpcli.landscape.grid import grid_points
from sharpcli.landscape.points.batch_norm import (
    Normalisations,
    look,
    recalibration_rows,
    statistics_of_layers,
)
from sharpcli.landscape.points.channels_last import channels_last
from sharpcli.landscape.points.evaluator import Anchors, BatchNorm, Point, Surface, Values
from sharpcli.landscape.points.walk import Walk, Watch
from sharpcli.landscape.trajectory import Projection, project
from sharpcli.objective.checks import check_deterministic, why_not_finite
from sharpcli.objective.coupling import check_coupling, coupling_named
from sharpcli.objective.fidelity import check_fidelity, check_reach
from sharpcli.objective.objective import Objective
from sharpcli.runs.study import Loaded, Studies, Study, load, note_calls
from sharpcli.settings import BatchNormSettings, InterpolateSettings, LandscapeSettings

__all__ = ["NAMES", "Beside", "Exploration", "begin_exploration", "explore_grid", "report"]

NAMES = "ABC"


@dataclass(frozen=True)
class Beside:
    """What is looked at beside the grid: checkpoints to mark, and paths to project."""

    marks: Sequence[str | Path] = ()
    trajectories: Sequence[Sequence[str | Path]] = ()


@dataclass
class Exploration:
    """A run's checkpoints in memory, its evaluator, and what is to be said of it.

    `anchors` are the checkpoints that span the line or plane, `marks` those put on it, and
    `trajectories` the points (n,) of each path. `found` is the document's one result.
    """

    kind: str
    settings: Mapping[str, Any]
    study: Study
    anchors: Sequence[Loaded]
    marks: Sequence[Loaded]
    trajectories: Sequence[Sequence[tuple[str, Tensor]]]
    train: Objective | None
    surface: Surface
    walk: Walk
    found: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def buffers(self, loaded: Loaded) -> dict[str, Tensor]:
        """A checkpoint's buffers and frozen parameters."""
        return self.study.network.fixed(loaded.match.tensors)


def begin_exploration(
    kind: str,
    paths: Sequence[str | Path],
    beside: Beside,
    studies: Studies,
    settings: InterpolateSettings | LandscapeSettings,
    dimensions: int,
    watch: Watch,
) -> Exploration:
    """Load every checkpoint, read the data and open the journal; nothing is explored yet.

    Raises `SharpError` where a checkpoint cannot be read or is not the task's model's, where two
    evaluations differ, and where the grid does not fit this machine.
    """
    shape = settings.grid.shape(dimensions)
    anchors = [_of_one_task(path, studies, paths[0]) for path in paths]
    marks = [_of_one_task(path, studies, paths[0]) for path in beside.marks]
    trajectories: list[list[tuple[str, Tensor]]] = []
    hashes: dict[str, list[str]] = {}  # a point's θ is kept and no more: a path may be long
    for number, points in enumerate(beside.trajectories, 1):
        trajectories.append([])
        for path in points:
            loaded = _of_one_task(path, studies, paths[0])
            trajectories[-1].append((str(path), loaded.theta))
            hashes.setdefault(f"path {number}", []).append(loaded.checkpoint.sha256)
    first, study = anchors[0], anchors[0].study
    objectives = study.objectives(first.match.tensors)
    splits = {name: o for name, o in objectives.items() if study.run.split in ("both", name)}
    warnings: list[str] = []
    drawn = next(iter(splits.values()))
    with coupling_named(drawn, first.theta):
        check_reach(study, first.match.tensors)
        check_deterministic(drawn, first.theta)
    check_coupling(objectives, first.theta, seed=study.run.seed)
    note_calls(study, first.match.tensors)
    check_fidelity(study, first.match.tensors, warnings, gradients=False)
    norms = look(next(iter(objectives.values())), first.theta)
    norm, said = _batch_norm(study, objectives, norms, settings.batch_norm)
    splits = {name: channels_last(objective, first.theta) for name, objective in splits.items()}
    if norm is not None:
        norm = replace(norm, rows=channels_last(norm.rows, first.theta))
    surface = Surface(splits, norm)
    this = Exploration(
        kind=kind,
        settings={"run": asdict(study.run), **asdict(settings)},
        study=study,
        anchors=anchors,
        marks=marks,
        trajectories=trajectories,
        train=objectives.get("train"),
        surface=surface,
        walk=Walk(surface, watch),
        found={"status": Outcome.OK, "dimensions": dimensions, **said},
    )
    this.warnings += warnings
    if "batch_norm_examples" in said:
        used, there = said["batch_norm_examples"], objectives["train"].rows.count
        of = "" if used == there else f"of {there} "
        this.notes.append(
            f"batch norm: statistics re-estimated from {used} {of}training examples at each point"
        )
    _say_what_is_not_taken_anew(this, norms)
    names = [*NAMES[: len(anchors)], *(f"M{i}" for i in range(1, len(marks) + 1))]
    for name, each in zip(names, (*anchors, *marks), strict=True):
        this.notes += [f"{name}: {note}" for note in each.notes if note not in study.notes]
    this.notes += study.notes
    center = Anchors(first.theta.unsqueeze(0), [this.buffers(first)])
    this.walk.check_size(shape, center, lambda _: torch.ones(1, dtype=torch.float64))
    if watch.journal is not None:
        described = {
            "kind": kind,
            "settings": this.settings,
            "task": study.description(),
            "checkpoints": {
                **{
                    name: each.checkpoint.sha256 for name, each in zip(NAMES, anchors, strict=False)
                },
                **{f"M{i}": each.checkpoint.sha256 for i, each in enumerate(marks, 1)},
            },
            "trajectories": hashes,
            "data": {name: rows.digest() for name, rows in study.rows.items()},
            "environment": _without_date(study),
        }
        watch.journal.begin(described)
        if watch.journal.problem:
            watch.say(f"finished points are not kept: {watch.journal.problem}")
    return this


def explore_grid(
    this: Exploration, frame: Frame, anchors: Anchors, axes: Sequence[dict[str, Any]], part: str
) -> list[Values | None]:
    """Evaluate every point of the grid and what is marked on it; fills `this.found`."""
    names = [axis["name"] for axis in axes]
    points = list(grid_points([axis["values"] for axis in axes]))
    values = this.walk.values(part, anchors, points, frame.weights)
    this.found |= {
        "checkpoints": _checkpoints(
            this, frame, anchors, names, dict(zip(points, values, strict=True))
        ),
        "shape": [len(axis["values"]) for axis in axes],
        "axes": list(axes),
        "coordinates": [dict(zip(names, point, strict=True)) for point in points],
        "curves": curves_of(values),
    }
    errors = sampling_errors_of(values)
    if errors:
        this.found["sampling_errors"] = errors
    _project_trajectories(this, frame, axes, names)
    _say_not_finite(this, values, part)
    _say_negative_variances(this, frame, anchors, points)
    return values


def report(this: Exploration) -> Report:
    """The report, without wall times and dates: a resumed run's is the same to the byte."""
    if this.walk.interrupted:
        this.found["status"] = Outcome.INTERRUPTED
        where = " the same command goes on from there" if this.walk.watch.journal else ""
        this.warnings.append(f"{this.walk.interrupted}{';' + where if where else ''}")
    return Report(
        kind=this.kind,
        settings=this.settings,
        environment=_without_date(this.study),
        task=this.study.description(),
        results=[this.found],
        notes=this.notes,
        warnings=this.warnings,
    )


def _of_one_task(path: str | Path, studies: Studies, first: str | Path) -> Loaded:
    loaded = load(path, studies)
    made = studies.made
    if len(made) > 1:
        one, other = (
            " ".join([study.task.name, *(f"{k}={v}" for k, v in study.task.options.items())])
            for study in made[:2]
        )
        raise UsageError(
            f"{first} and {path} are of different tasks ({one}; {other}): they are not points of "
            "one parameter space",
            "name checkpoints of one architecture, or one task for all of them with "
            f"{setting('task')}",
        )
    return loaded


def _batch_norm(
    study: Study,
    objectives: Mapping[str, Objective],
    norms: Normalisations,
    settings: BatchNormSettings,
) -> tuple[BatchNorm | None, dict[str, Any]]:
    """How running statistics are found, and what the document says of it."""
    if study.run.mode == "train":
        return None, {"batch_norm": "batch" if statistics_of_layers(study.network) else None}
    if not norms.moving:
        return None, {"batch_norm": None}
    rows = recalibration_rows(objectives["train"], settings.examples, study.run.seed)
    said: dict[str, Any] = {"batch_norm": settings.mode}
    if settings.mode == "recalibrate":
        said["batch_norm_examples"] = rows.rows.count
    return BatchNorm(settings.mode, rows, norms.frozen, norms.several), said


def _say_what_is_not_taken_anew(this: Exploration, norms: Normalisations) -> None:
    """Notes and warnings of buffers that are not what the weights at a point would have made."""
    own = [this.buffers(each) for each in this.anchors]
    buffers = [name for name, _ in this.study.network.model.named_buffers()]
    read = {name for call in norms.calls for name in (call.mean, call.variance)}
    read |= statistics_of_layers(this.study.network)  # a layer that is not called has no effect

    def differ(names: Iterable[str]) -> list[str]:
        floats = [name for name in names if own[0][name].is_floating_point()]
        return [n for n in floats if not all(torch.equal(own[0][n], each[n]) for each in own)]

    anew = this.surface.batch_norm is not None and this.surface.batch_norm.mode != "interpolate"
    if norms.frozen:
        layers = dict.fromkeys(name.rpartition(".")[0] for name in norms.frozen)
        this.notes.append(
            f"batch norm: the model keeps {named([*layers])} in evaluation mode when it trains: "
            "running statistics there are those of the checkpoints, and are not re-estimated"
        )
    if norms.unseen:
        what = (
            f"running statistics that no batch_norm or instance_norm reads: {named(norms.unseen)}"
        )
        if moved := differ(norms.unseen):
            this.warnings.append(
                f"{what}: they are not re-estimated at the points but interpolated "
                f"({named(moved)}), as weights are, and need not fit the weights there"
            )
        else:
            this.notes.append(f"{what}: they are not re-estimated, and are the same at all points")
    if others := differ(set(buffers) - read - {*norms.unseen}):
        this.notes.append(
            f"buffers that differ between the checkpoints are interpolated as weights are: "
            f"{named(sorted(others))}"
        )
    apart = any(not torch.equal(this.anchors[0].theta, each.theta) for each in this.anchors)
    if (
        anew
        and apart
        and not differ(n for call in norms.moving for n in (call.mean, call.variance))
    ):
        this.notes.append(
            "batch norm: the checkpoints have the same running statistics, as where these were "
            "frozen in training; they are re-estimated all the same, which "
            f"{setting('batch_norm.mode', 'interpolate')} leaves out"
        )


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


def _checkpoints(
    this: Exploration,
    frame: Frame,
    anchors: Anchors,
    names: Sequence[str],
    on_grid: Mapping[Point, Values | None],
) -> list[dict[str, Any]]:
    """What the document says of the checkpoints that span the frame and of those marked on it."""
    role = "anchor" if this.kind == "interpolate" else "center"
    roles = [(role, place, 0.0) for place in frame.places]
    if this.marks:
        marked = project([each.theta for each in this.marks], frame)
        pairs = zip(marked.coordinates, marked.unseen, strict=True)
        roles += [("marked", place, unseen) for place, unseen in pairs]
    plain = Surface(this.surface.objectives)
    found = []
    for index, (loaded, (role, place, unseen)) in enumerate(
        zip((*this.anchors, *this.marks), roles, strict=True)
    ):
        checkpoint = loaded.checkpoint
        entry: dict[str, Any] = {
            "name": NAMES[index] if role != "marked" else f"M{index - len(this.anchors) + 1}",
            "path": str(checkpoint.path),
            "sha256": checkpoint.sha256,
            "parameters": this.study.network.size,
            "metadata": checkpoint.metadata,
            "notes": loaded.notes,
            "role": role,
            "coordinates": dict(zip(names, place, strict=True)),
            "unseen": unseen,
        }
        if not this.walk.interrupted:
            own = Anchors(loaded.theta.unsqueeze(0), [this.buffers(loaded)])
            here = on_grid.get(place) or this.surface.at(anchors, _weights(frame, index, place))
            same = role != "marked" and this.surface.batch_norm is None
            alone = here if same else plain.at(own, torch.ones(1, dtype=torch.float64))
            doubted = {k: each.rows.doubt for k, each in this.surface.objectives.items()}
            entry["measures"] = measures_of(alone, doubted)
            entry["on_surface"] = measures_of(here, doubted)
        if this.study.run.parameters:
            entry["parameters_in_all"] = this.study.size
        found.append(entry)
    return found


def _weights(frame: Frame, index: int, place: Sequence[float]) -> Tensor:
    """The anchors' weights at a checkpoint's place, with no rounding where it is an anchor."""
    if index >= len(frame.places):
        return frame.weights(place)
    weights = torch.zeros_like(frame.origin)
    weights[index] = 1
    return weights


def _project_trajectories(
    this: Exploration, frame: Frame, axes: Sequence[dict[str, Any]], names: Sequence[str]
) -> None:
    points = [theta for path in this.trajectories for _, theta in path]
    if not points:
        return
    shown: Projection = project(points, frame)
    places = iter(zip(shown.coordinates, shown.unseen, strict=True))
    labels = path_labels([[path for path, _ in each] for each in this.trajectories])
    this.found["trajectories"] = [
        {
            "name": name,
            "points": [
                {
                    "path": path,
                    "coordinates": dict(zip(names, place, strict=True)),
                    "unseen": unseen,
                }
                for (path, _), (place, unseen) in zip(each, places, strict=False)
            ],
        }
        for name, each in zip(labels, this.trajectories, strict=True)
    ]
    for axis, share in zip(axes, shown.explained_variance, strict=True):
        axis["explained_variance"] = share
    this.found["explained_variance"] = shown.explained_together
    if shown.explained_together < 0.5:
        this.warnings.append(
            f"the {('line', 'plane')[len(names) - 1]} shows {shown.explained_together:.0%} of the "
            "path's variance: where its points lie is mostly not to be seen here (sharp landscape "
            f"{setting('directions', 'trajectory')} shows the most)"
        )


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


def _without_date(study: Study) -> dict[str, Any]:
    found = environment(study.network.device)
    del found["date"]
    return found
