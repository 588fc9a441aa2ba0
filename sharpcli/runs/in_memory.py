"""Models and data that are in memory, as in a notebook, in the terms of checkpoints and tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sharpcli.checkpoint import Checkpoint
from sharpcli.documents.results import Report
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.objective.rows import digest_of
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from sharpcli.tasks import Task, defaults
from sharpcli.tasks.loaders import map_style

__all__ = [
    "Given",
    "as_checkpoint",
    "check_alike",
    "given",
    "measures_of",
    "run_of",
    "with_notes",
]


@dataclasses.dataclass(frozen=True)
class Given:
    """The task of a model in memory, and notes on how its data were read."""

    task: Task
    notes: Sequence[str]


def given(
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    predict: Callable[[nn.Module, Any], Any] | None = None,
    metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Given:
    """A task of a model and its data.

    Raises:
        UsageError: the data have no fixed rows, or the loaders make batches in two ways.
    """
    name, notes = type(model).__name__, list[str]()
    data, collates = {}, {}
    for split, each in (("train", train), ("test", test)):
        data[split], own = map_style(each, split, notes, collate)
        if own is not None:
            collates[split] = own
    if collate is None and collates:
        collate, *others = collates.values()
        if len(collates) == 1 and data["train"] is not None and data["test"] is not None:
            (split,) = collates
            notes.append(f"the collate_fn of the loader in {split} makes all batches")
        if any(other != collate for other in others):
            raise UsageError(
                "the loaders in train and test have two collate_fn, and one makes the batches",
                f"name it: {setting('collate')}=train_loader.collate_fn",
            )
    task = Task(
        name=name,
        options={},
        fingerprint="",
        model=lambda: model,
        data=data.__getitem__,
        predict=predict or defaults.predict,
        loss=loss or defaults.loss_for(name),
        metrics=metrics or defaults.metrics,
        collate=collate,
    )
    return Given(task, notes)


def run_of(
    run: RunSettings | None, default: RunSettings | None = None, **named: Any
) -> RunSettings:
    """The settings of a run, with those that were given by their own names.

    Raises:
        UsageError: one is given twice, with two values.
    """
    given_ = {name: value for name, value in named.items() if value is not None}
    if run is None:
        return dataclasses.replace(default or RunSettings(), **given_)
    plain = RunSettings()
    for name, value in given_.items():
        other = getattr(run, name)
        if other not in (value, getattr(plain, name)):
            raise UsageError(
                f"{setting(name, value)} is given, and {setting(name, other)} in run",
                "give one of the two",
            )
    return dataclasses.replace(run, **given_)


def measures_of(
    settings: MeasureSettings | None, measures: str | Sequence[str] | None
) -> MeasureSettings:
    """The settings of a measurement, with measures that were given by name.

    Raises:
        UsageError: the settings name others.
    """
    settings = settings or MeasureSettings()
    if measures is None:
        return settings
    names = (measures,) if isinstance(measures, str) else tuple(measures)
    if settings.measures not in ((), names):
        raise UsageError(
            f"measures={names!r} are given, and {settings.measures!r} in settings",
            "give one of the two",
        )
    return dataclasses.replace(settings, measures=names)


def as_checkpoint(model: nn.Module, name: str) -> Checkpoint:
    """The tensors of a model as those of a checkpoint of this name; nothing is copied."""
    state = model.state_dict()  # a module may keep other state beside its tensors
    digest = digest_of({key: each for key, each in state.items() if isinstance(each, Tensor)})
    return Checkpoint(Path(name), dict(state), {}, digest)


def with_notes(report: Report, notes: Sequence[str]) -> Report:
    """The report with further notes."""
    return dataclasses.replace(report, notes=[*report.notes, *notes])


def check_alike(models: Mapping[str, nn.Module]) -> None:
    """Raise `SharpError` where models are of two kinds: they are no points of one space."""
    (first, one), *others = models.items()
    for name, other in others:
        if type(other) is not type(one):
            raise SharpError(
                f"{first} is a {type(one).__name__} and {name} a {type(other).__name__}: they are "
                "not points of one parameter space",
                "give models of one architecture",
            )
