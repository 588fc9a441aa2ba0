"""Measure checkpoints on a task, for `sharp measure`, or a model in memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from sharpcli.checkpoint import Checkpoint, load_checkpoint, read_checkpoint
from sharpcli.checkpoint.optimizer_files import state_file
from sharpcli.checkpoint.own_hooks import held
from sharpcli.checkpoint.state_dict import StateDict
from sharpcli.documents.environment import environment
from sharpcli.documents.results import CheckpointResult, Failure, Report
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError
from sharpcli.measures import Measure, choose, options_of
from sharpcli.measures.packages import code_of
from sharpcli.runs import deciding, order_asked
from sharpcli.runs.by_layer import check_layers
from sharpcli.runs.compared import data_warning, loss_warning, not_compared, pairs_among
from sharpcli.runs.course import Course
from sharpcli.runs.failures import INTERRUPTED, each_checkpoint
from sharpcli.runs.finished import Finished, restored
from sharpcli.runs.growing_samples import Judge
from sharpcli.runs.in_memory import given, measures_of, run_of
from sharpcli.runs.measure_one import (
    Keep,
    check_size,
    first_samples,
    measure_grown,
    measure_one,
    shares_of_time,
)
from sharpcli.runs.price import Foreteller
from sharpcli.runs.rescaled import check_rescaling
from sharpcli.runs.studies import Studies
from sharpcli.runs.study import SPLITS, Study, matched, prepare
from sharpcli.runs.watching import Watch, check_watch, each_arrival
from sharpcli.runtime.devices import resolve_device
from sharpcli.runtime.progress import UNSAID, Begin, Notes, silent
from sharpcli.runtime.randomness import global_random_state_kept
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from sharpcli.tasks import Task

__all__ = ["as_settings", "measure_checkpoints", "measure_model"]


def measure_checkpoints(
    paths: Sequence[str | Path],
    task: str | Path | Task | None = None,
    task_options: Mapping[str, str] | None = None,
    run: RunSettings | None = None,
    settings: MeasureSettings | None = None,
    *,
    begin: Begin = lambda _: silent,
    notes: Notes = UNSAID,
    finished: Finished | None = None,
    watch: Watch | None = None,
    keep: Keep | None = None,
) -> Report:
    """Measure each checkpoint on a task; a failure is shown in the checkpoint's place.

    Ctrl-C ends the run and keeps finished results. The global random states do not change. A
    `SharpError` says that nothing can be measured: no task, no data, an unknown measure.

    Args:
        paths: The checkpoints.
        task: A `Task`, or its name (a file, `package.module:name`, a built-in task); by default
            the built-in task in a checkpoint's own metadata.
        task_options: The task's options as text.
        run: Data, device and precision.
        settings: The measures and their options.
        begin: Called with the title of each step; returns its progress callback.
        notes: Receives notes for the user.
        finished: Gives the results that an earlier run has finished, and gets each new one. With
            `settings.decide` it is not used, since results change while the sample grows.
        watch: In place of `paths`, a folder whose checkpoints are measured as they come.
        keep: Called after each measurement, while its context still has what was computed.
    """
    run, settings = run or RunSettings(), settings or MeasureSettings()
    asked = None if settings.decide is None else order_asked.asked_for(settings.decide)
    measures = choose(settings.measures) if settings.measures or asked is None else [asked.measure]
    every = measures if asked is None or asked.measure in measures else [asked.measure, *measures]
    settings = replace(settings, options=options_of(every, settings.options))
    check_layers(measures, settings)
    check_rescaling(run, settings)
    if watch is not None:
        check_watch(watch, paths, settings)
    order_asked.check(paths, run, settings)
    baseline = order_asked.baseline_of(settings.baseline, paths)
    device = resolve_device(run.device)
    first = first_samples(run, settings)
    course, finished = Course(paths), finished or Finished()
    sized: dict[int | None, Studies] = {}
    foretell, shares = Foreteller(len(paths) or 1, notes), shares_of_time(settings, len(paths))

    def studies_of(samples: int | None) -> Studies:
        if samples not in sized:
            asked = replace(run, samples=samples)
            sized[samples] = Studies(
                task,
                task_options or {},
                asked,
                device,
                begin,
                memory=settings.curvature.memory,
                splits=_splits(run, every),
            )
        return sized[samples]

    def measured_one(path: Path, about: dict[str, Any]) -> CheckpointResult:
        course.next(path)
        ahead = [read_checkpoint(path, run.weights)]
        about |= {"sha256": ahead[0].sha256, "metadata": ahead[0].metadata}
        study = studies_of(first).of(ahead[0])
        state = _state_file(ahead[0], measures, settings)
        if (kept := finished.result_of(path, ahead[0], study, state)) is not None:
            if shares:
                shares.end_of_next()  # its time is for the others
            return restored(kept)

        def at(samples: int | None, judge: Judge | None) -> CheckpointResult:
            checkpoint = ahead.pop() if ahead else read_checkpoint(path, run.weights)
            about.update(sha256=checkpoint.sha256, metadata=checkpoint.metadata)
            loaded, titled = studies_of(samples).loaded(checkpoint), course.titled(begin)
            check_size(loaded.study, measures, settings)
            return measure_one(
                *(loaded, about, measures, settings, titled, notes, judge, foretell), keep=keep
            )

        result = measure_grown(settings, run, notes.about(path.name), at, shares)
        course.measured()
        return result

    def measured_on(
        path: Path,
        about: dict[str, Any],
        samples: int,
        measures: Sequence[Measure],
        settings: MeasureSettings,
        *,
        lowest: bool,
    ) -> CheckpointResult:
        studies, checkpoint = studies_of(samples), read_checkpoint(path, run.weights)
        about |= {"sha256": checkpoint.sha256, "metadata": checkpoint.metadata}
        loaded, titled = studies.loaded(checkpoint), _named(path.name, begin)
        check_size(loaded.study, measures, settings)
        return measure_one(
            *(loaded, about, measures, settings, titled, notes), lowest=lowest, keep=keep
        )

    if asked is None:
        packages = code_of([measure.name for measure in measures])
        finished.begin("measure", _described(run, settings), packages)
    with global_random_state_kept():
        known = None if task is None else studies_of(first).check()
        if known is not None:
            check_size(known, measures, settings)
        if asked is not None:
            found = deciding.decide(paths, asked, run, settings, measured_on, _failed, notes)
            if settings.measures:
                found = deciding.with_others(
                    found, asked, paths, measures, settings, measured_on, _failed
                )
            results = found.results
        else:
            found = deciding.Decided(())
            if watch is not None:
                results = each_arrival(
                    watch, measured_one, _failed, is_last=_stopped, done=finished.add, notes=notes
                )
            else:
                results = each_checkpoint(
                    paths, measured_one, _failed, is_last=_stopped, done=finished.add
                )
    decision = found.decision
    return Report(
        kind="measure",
        settings=as_settings(run, settings),
        environment=environment(device),
        task=_task(list(sized.values())[-1] if sized else studies_of(first), run.split, results),
        results=results,
        pairs=[
            *found.pairs,
            *(
                pair
                for pair in pairs_among(results, baseline)
                if decision is None or pair.measure != decision.measure
            ),
        ],
        decision=decision,
        notes=[
            *not_compared(results, baseline, compared=decision is not None),
            *(order_asked.unmeasured(asked, settings) if asked is not None else ()),
        ],
        warnings=[w for w in [loss_warning(results), data_warning(results)] if w],
    )


def measure_model(
    model: nn.Module,
    train: Any,
    test: Any = None,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    predict: Callable[[nn.Module, Any], Any] | None = None,
    metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    measures: str | Sequence[str] | None = None,
    samples: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    run: RunSettings | None = None,
    settings: MeasureSettings | None = None,
    begin: Begin = lambda _: silent,
    notes: Notes = UNSAID,
) -> Report:
    """Measure a model in memory, for example in a notebook.

    The model is copied: its parameters, buffers, mode flags and `.grad` stay as they are. A model
    that cannot be measured raises `SharpError`.

    Args:
        model: with the weights to measure.
        train: training data: a map-style data set, a tuple of tensors or arrays (N, …), or a
            DataLoader, whose data set and collate_fn are used.
        test: test data of the same form.
        loss: returns one loss for each example of (outputs, batch) (default: cross-entropy).
        predict: returns the outputs of (model, batch) (default: those of the batch's first tensor).
        metrics: returns numbers of (outputs, batch) by name (default: the accuracy for classes).
        collate: makes a batch of a list of rows (default: a loader's own, or PyTorch's).
        measures: names of measures, in place of those in `settings`.
        samples: size of a random subset of the data, in place of that in `run`.
        device: where it is computed, in place of that in `run`.
        dtype: in which precision, in place of that in `run`.
        seed: of everything random, in place of that in `run`.
        run: the data, the device and the precision.
        settings: the measures and their settings.
        begin: opens a progress display.
        notes: receives messages during the run.

    Cost: the sum of its measures' costs (docs/measures.md).

    >>> import torch
    >>> from sharpcli import measure_model
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.constant_(model.weight, 2.0)
    >>> train = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
    >>> def loss(outputs, batch):
    ...     return (outputs - batch[1]).square().sum(1)
    >>> report = measure_model(model, train, loss=loss, measures=("loss", "hessian"))
    >>> numbers = report.scalars()
    >>> numbers["loss.train"], round(numbers["hessian.eigenvalues[0]"], 3)
    (0.0, 5.0)
    """
    settings = measures_of(settings, measures)
    run = run_of(run, samples=samples, device=device, dtype=dtype, seed=seed)
    chosen = choose(settings.measures)
    settings = replace(settings, options=options_of(chosen, settings.options))
    check_layers(chosen, settings)
    check_rescaling(run, settings)
    place = resolve_device(run.device)
    made = given(model, train, test, loss=loss, predict=predict, metrics=metrics, collate=collate)
    task, name = made.task, made.task.name
    foretell = Foreteller(1, notes)
    with global_random_state_kept():
        studies: list[Study] = []

        def at(samples: int | None, judge: Judge | None) -> CheckpointResult:
            study = prepare(
                task,
                replace(run, samples=samples),
                place,
                begin=begin,
                memory=settings.curvature.memory,
                splits=_splits(run, chosen),
            )
            studies.append(study)
            check_size(study, chosen, settings)
            checkpoint = Checkpoint(Path(name), StateDict(held(model), origin="model"), {}, "")
            about: dict[str, Any] = {"path": name, "metadata": {}}
            loaded, named = matched(checkpoint, study), _named(name, begin)
            return measure_one(loaded, about, chosen, settings, named, notes, judge, foretell)

        result = measure_grown(settings, run, notes.about(name), at, shares_of_time(settings, 1))
    return Report(
        kind="measure",
        settings=as_settings(run, settings),
        environment=environment(place),
        task=studies[-1].description(),
        results=[result],
        notes=made.notes,
    )


def as_settings(run: RunSettings, settings: MeasureSettings) -> dict[str, Any]:
    """The document's settings, with measures' own options only if there are some."""
    measure = asdict(settings)
    if not measure["options"]:
        del measure["options"]
    return {"run": asdict(run), "measure": measure}


def _task(studies: Studies, split: str, results: Sequence[CheckpointResult]) -> dict[str, Any]:
    """The task as in the document; where samples grew, with the examples of the reported values.

    Checkpoints that ended at samples of different sizes share no number.
    """
    described = studies.description()
    counts = {each.checkpoint.get("examples") for each in results if each.status == Outcome.OK}
    if counts and counts != {None}:
        others = {name: count for name, count in described["examples"].items() if name != split}
        own = {split: counts.pop()} if len(counts) == 1 else {}
        described["examples"] = {**own, **others}
    return described


def _splits(run: RunSettings, measures: Sequence[Measure]) -> Sequence[str]:
    """The splits that the measures read."""
    return (run.split,) if all(measure.one_split for measure in measures) else SPLITS


def _described(run: RunSettings, settings: MeasureSettings) -> dict[str, Any]:
    """The settings that decide what a checkpoint's result is, by the names that users know."""
    written = as_settings(run, settings)
    own = written["measure"]
    options = own.pop("options", {})
    if settings.initial is not None:
        with contextlib.suppress(SharpError):  # a measure that reads it says why it cannot
            own["initial_sha256"] = load_checkpoint(settings.initial).sha256
    return {"run": written["run"], "measure": {**own, **options}}


def _state_file(
    checkpoint: Checkpoint, measures: Sequence[Measure], settings: MeasureSettings
) -> Callable[[], Path | None] | None:
    """Gives the file of the optimizer's state; None if no measure reads one."""
    if not any(option.name == "optimizer_state" for each in measures for option in each.options):
        return None
    given = settings.options.get("optimizer_state") or None
    return functools.partial(state_file, checkpoint.path, given)


def _named(name: str, begin: Begin) -> Begin:
    """A `begin` whose titles start with the checkpoint's name."""
    return lambda title: begin(f"{name}: {title}")


def _failed(about: Mapping[str, Any], error: Failure) -> CheckpointResult:
    return CheckpointResult(about, Outcome.FAILED, error=error)


def _stopped(result: CheckpointResult) -> bool:
    """Whether Ctrl-C came in one of its layers."""
    return any(layer.error == INTERRUPTED for layer in result.layers)
