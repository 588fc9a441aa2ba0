"""The parts that `interpolate` and `landscape` share: one exploration of parameter space."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.checkpoint import Checkpoint
from sharpcli.checkpoint.contents import listed
from sharpcli.documents.environment import environment
from sharpcli.documents.grids import Explored, Interpolated, Points
from sharpcli.documents.labels import named, pairs, path_labels
from sharpcli.documents.results import Report
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.landscape.points.batch_norm import recalibration_rows
from sharpcli.landscape.points.channels_last import channels_last
from sharpcli.landscape.points.evaluator import Anchors, BatchNorm, Surface
from sharpcli.landscape.points.normalisations import Normalisations, look, statistics_of_layers
from sharpcli.landscape.points.walk import Walk, Watch
from sharpcli.objective.objective import Objective
from sharpcli.objective.trees import equal_tensors
from sharpcli.runs.failures import said_by_torch
from sharpcli.runs.path_order import PathPoint, in_order
from sharpcli.runs.preflight import check_model
from sharpcli.runs.studies import Studies, load
from sharpcli.runs.study import Loaded, Study
from sharpcli.runtime.devices import resolve_device
from sharpcli.runtime.randomness import global_random_state_kept
from sharpcli.settings.exploring import BatchNormSettings, InterpolateSettings, LandscapeSettings
from sharpcli.settings.measuring import RunSettings
from sharpcli.tasks import Task

__all__ = [
    "Beside",
    "Exploration",
    "begin_exploration",
    "exploring",
    "report",
]

NAMES = "ABC"


@dataclass(frozen=True)
class Beside:
    """Checkpoints to mark, and paths to project, in addition to the grid."""

    marks: Sequence[str | Path] = ()
    trajectories: Sequence[Sequence[str | Path]] = ()


@dataclass
class Exploration:
    """A run's checkpoints in memory, its evaluator, and its notes and warnings.

    `anchors` are the checkpoints that span the line or plane, `marks` those marked on it, and
    `trajectories` the points (n,) of each path.
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
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def buffers(self, loaded: Loaded) -> dict[str, Tensor]:
        """A checkpoint's buffers and frozen parameters."""
        return self.study.network.fixed(loaded.match.tensors)

    def drawn(self, points: Points) -> dict[str, Any]:
        """The result fields of both commands: status, dimensions, batch norm and the points."""
        norm, network = self.surface.batch_norm, self.study.network
        in_training = self.study.run.mode == "train" and statistics_of_layers(network)
        recalibrated = norm is not None and norm.mode == "recalibrate"
        return {
            "status": Outcome.INTERRUPTED if self.walk.interrupted else Outcome.OK,
            "dimensions": len(points.axes),
            "batch_norm": norm.mode if norm else "batch" if in_training else None,
            "batch_norm_examples": norm.rows.rows.count if norm and recalibrated else None,
            **vars(points),
        }


@contextlib.contextmanager
def exploring(
    task: str | Path | Task | None,
    task_options: Mapping[str, str] | None,
    run: RunSettings | None,
    watch: Watch,
) -> Iterator[Studies]:
    """Yield the studies of a run's task; keep the global random states and close the journal.

    Raises:
        SharpError: the journal has no folder, memory runs out, or the loss has no derivative.
        RuntimeError: any other error of torch.
    """
    if watch.journal is not None:
        watch.journal.check()
    run = run or RunSettings(split="both")
    try:
        with global_random_state_kept():
            # Batch norm's statistics are those of training data.
            yield Studies(
                task,
                task_options or {},
                run,
                resolve_device(run.device),
                watch.begin,
                splits=("train",),
            )
    except RuntimeError as error:
        said = said_by_torch(error)
        if said is None:
            raise
        raise SharpError(said.message, said.hint) from error
    finally:
        if watch.journal is not None:
            watch.journal.close()


def begin_exploration(
    kind: str,
    paths: Sequence[str | Path | Checkpoint],
    beside: Beside,
    studies: Studies,
    settings: InterpolateSettings | LandscapeSettings,
    dimensions: int,
    watch: Watch,
) -> Exploration:
    """Load every checkpoint, read the data and open the journal; nothing is explored yet.

    A `SharpError` says that a checkpoint cannot be read or does not fit the task's model, that two
    evaluations differ, or that the grid does not fit this machine.
    """
    shape = settings.grid.shape(dimensions)
    anchors = [_of_one_task(path, studies, paths[0]) for path in paths]
    marks = [_of_one_task(path, studies, paths[0]) for path in beside.marks]
    trajectories: list[list[tuple[str, Tensor]]] = []
    hashes: dict[str, list[str]] = {}
    orders: list[str] = []
    for number, points in enumerate(beside.trajectories, 1):
        given = [_path_point(path, studies, paths[0]) for path in points]
        ordered, order = in_order(given)
        orders.append(order if ordered != given else "")  # nothing was chosen for the user
        trajectories.append([(each.path, each.theta) for each in ordered])
        hashes[f"path {number}"] = [each.sha256 for each in ordered]
    first, study = anchors[0], anchors[0].study
    objectives = study.objectives(first.match.tensors)
    splits = {name: o for name, o in objectives.items() if study.run.split in ("both", name)}
    warnings: list[str] = []
    check_model(first, objectives, warnings)
    norms = look(next(iter(objectives.values())), first.theta)
    norm = _batch_norm(study, objectives, norms, settings.batch_norm)
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
        warnings=warnings,
    )
    if norm is not None and norm.mode == "recalibrate":
        used, there = norm.rows.rows.count, objectives["train"].rows.count
        of = "" if used == there else f"of {there} "
        this.notes.append(
            f"batch norm: statistics re-estimated from {used} {of}training examples at each point"
        )
    _say_what_is_not_taken_anew(this, norms)
    labels = path_labels([[path for path, _ in each] for each in trajectories]) if orders else []
    this.notes += [
        f"{label}: {order}" for label, order in zip(labels, orders, strict=True) if order
    ]
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
            **({"model": study.own_tensors} if study.own_tensors else {}),
            "environment": _without_date(study),
        }
        watch.journal.begin(described)
        if watch.journal.problem:
            watch.say(f"finished points are not kept: {watch.journal.problem}")
    return this


def report(this: Exploration, result: Interpolated | Explored) -> Report:
    """The report, without wall times and dates: that of a resumed run is the same to the byte."""
    if this.walk.interrupted:
        where = " the same command goes on from there" if this.walk.watch.journal else ""
        this.warnings.append(f"{this.walk.interrupted}{';' + where if where else ''}")
    return Report(
        kind=this.kind,
        settings=this.settings,
        environment=_without_date(this.study),
        task=this.study.description(),
        results=[result],
        notes=this.notes,
        warnings=this.warnings,
    )


def _path_point(path: str | Path, studies: Studies, first: str | Path | Checkpoint) -> PathPoint:
    """A checkpoint of a path; only θ is kept, since a path may be long."""
    loaded = _of_one_task(path, studies, first)
    checkpoint = loaded.checkpoint
    return PathPoint(str(path), checkpoint.metadata, loaded.theta, checkpoint.sha256)


def _of_one_task(
    path: str | Path | Checkpoint, studies: Studies, first: str | Path | Checkpoint
) -> Loaded:
    """Load a checkpoint; raises `UsageError` if its task or options are not those of the first."""
    loaded = load(path, studies)
    if studies.parts > 1:
        raise UsageError(
            f"{first} and {path} hold different parts of the model: they are not points of one "
            "parameter space",
            "name checkpoints of the same part",
        )
    if names := studies.variants:
        raise UsageError(
            f"{first} and {path} are loaded as different networks: the model's own load_state_dict "
            f"sets {listed(names, 3)} otherwise: they are not points of one parameter space",
            "name checkpoints of the same version, or load and save one again with the model",
        )
    if len(studies.described) == 1:
        return loaded
    one, other = studies.described[:2]
    keys = dict.fromkeys((*one["options"], *other["options"]))
    differing = [k for k in keys if one["options"].get(k) != other["options"].get(k)]
    told = "; ".join(
        f"{each['name']} {pairs({k: each['options'].get(k) for k in differing})}".rstrip()
        for each in (one, other)
    )
    hint = f"one task for all of them with {setting('task')}"
    if one["name"] == other["name"]:
        hint = f"give the option for all of them: {setting(f'options.{differing[0]}', '…')}"
    raise UsageError(
        f"{first} and {path} belong to different tasks ({told}): they are not points of one "
        "parameter space and one loss",
        f"name checkpoints of one architecture, or {hint}",
    )


def _batch_norm(
    study: Study,
    objectives: Mapping[str, Objective],
    norms: Normalisations,
    settings: BatchNormSettings,
) -> BatchNorm | None:
    """How running statistics are computed; None if the model reads none."""
    if study.run.mode == "train" or not norms.moving:
        return None
    rows = recalibration_rows(objectives["train"], settings.examples, study.run.seed)
    return BatchNorm(settings.mode, rows, norms.frozen, norms.several)


def _say_what_is_not_taken_anew(this: Exploration, norms: Normalisations) -> None:
    """Add notes and warnings on buffers that are not re-estimated for the weights at a point."""
    own = [this.buffers(each) for each in this.anchors]
    buffers = [name for name, _ in this.study.network.model.named_buffers()]
    read = {name for call in norms.calls for name in (call.mean, call.variance)}
    read |= statistics_of_layers(this.study.network)  # a layer that is not called has no effect

    def differ(names: Iterable[str]) -> list[str]:
        floats = [name for name in names if own[0][name].is_floating_point()]
        return [n for n in floats if not all(equal_tensors(own[0][n], each[n]) for each in own)]

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


def _without_date(study: Study) -> dict[str, Any]:
    found = environment(study.network.device)
    del found["date"]
    return found
