"""Measure one checkpoint: once, or on samples that grow until they are large enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sharpcli.documents.results import CheckpointResult
from sharpcli.documents.statuses import Outcome
from sharpcli.measures import Measure, compute
from sharpcli.measures.context import Context
from sharpcli.objective.reliability import warning
from sharpcli.runs import deciding
from sharpcli.runs.by_layer import measure_layers
from sharpcli.runs.growing_samples import FIRST_IN_TIME, FIRST_SAMPLES, Judge, Limit, grown
from sharpcli.runs.initial import initial_of
from sharpcli.runs.preflight import ready
from sharpcli.runs.price import Foreteller, TimeShares
from sharpcli.runs.rescaled import Rescaled, measure_rescaled
from sharpcli.runs.study import Loaded, Study
from sharpcli.runtime.progress import Begin, Notes
from sharpcli.settings.measuring import MeasureSettings, RunSettings

__all__ = [
    "Keep",
    "check_size",
    "first_samples",
    "measure_grown",
    "measure_one",
    "shares_of_time",
]

# Receives what a measurement computed beside its numbers, such as eigenvectors.
Keep = Callable[[Loaded, Context, Mapping[str, Any]], None]


def measure_one(
    loaded: Loaded,
    about: dict[str, Any],
    measures: Sequence[Measure],
    settings: MeasureSettings,
    begin: Begin,
    notes: Notes,
    judge: Judge | None = None,
    foretell: Foreteller | None = None,
    *,
    lowest: bool = True,
    keep: Keep | None = None,
) -> CheckpointResult:
    """One checkpoint's result on the rows of its study.

    Args:
        loaded: the checkpoint.
        about: facts about it, which the result repeats.
        measures: what is measured.
        settings: the measures' settings.
        begin: opens a progress display.
        notes: receives messages during the run.
        judge: says whether the sample is large enough, where samples grow.
        foretell: notes how long it will take.
        lowest: the smallest eigenvalue is needed too.
        keep: called after the measurement, while its context still has what was computed.
    """
    study, warnings = loaded.study, list[str]()
    tensors = dict(loaded.match.tensors) if settings.rescale_check else {}
    check = any(measure.needs_curvature for measure in measures)
    gradients = any(measure.needs_gradients for measure in measures)
    objectives = ready(loaded, settings.curvature, warnings, check=check, gradients=gradients)
    objective = objectives[study.run.split]
    context = Context(
        objective,
        objectives,
        loaded.theta,
        settings,
        seed=study.run.seed,
        self_check=study.checked,
        checkpoint=loaded.checkpoint,
        initial=initial_of(study, settings, warnings),
        lowest=lowest,
        warnings=warnings,
        begin=begin,
        notes=notes.about(loaded.checkpoint.path.name),
    )
    try:
        if judge is None and foretell is not None:
            foretell(context, measures)
        found = compute(measures, context)
        if keep is not None:
            keep(loaded, context, found)
    finally:
        context.release()
    reasons = [each.rows.doubt for each in objectives.values() if each.rows.doubt]
    if said := warning(found, next(iter(reasons), None)):
        warnings.append(said)
    about = {**about, **loaded.description()}
    rows, enough = objective.rows, True
    if rows.sampled or judge is not None or settings.decide is not None:
        about["examples"] = rows.count
    if rows.sampled:
        about["examples_in_all"] = rows.total
        about["sample"] = study.sample
        if judge is not None:
            found = judge(found, rows.count, rows.total)
            enough = judge.enough
    layers = measure_layers(context, measures, loaded, begin) if settings.by and enough else []
    rescaled = Rescaled()
    if settings.rescale_check and enough:
        rescaled = measure_rescaled(context, measures, found, tensors, study, begin)
    return CheckpointResult(
        about,
        Outcome.OK,
        found,
        warnings=warnings,
        layers=layers,
        rescaled=rescaled.numbers,
        rescaling=rescaled.facts,
    )


def check_size(study: Study, measures: Sequence[Measure], settings: MeasureSettings) -> None:
    """Raise `UsageError` if the model has too few parameters for the settings."""
    for measure in measures:
        if measure.check:
            measure.check(study.network.size, settings)


def measure_grown(
    settings: MeasureSettings,
    run: RunSettings,
    notes: Notes,
    measure: Callable[[int | None, Judge | None], CheckpointResult],
    shares: TimeShares | None,
) -> CheckpointResult:
    """One measurement, or several on growing samples.

    They grow until the sampling error meets its target or the checkpoint's share of the time ends.
    """
    target, first = settings.sampling_error, first_samples(run, settings)
    if first is None or (target is None and shares is None):
        return measure(first, None)
    judge = Judge(target or 0.0, run.split)
    limit = None if shares is None else Limit(shares.end_of_next(), shares.clock)
    return grown(judge, lambda count: measure(count, judge), first=first, notes=notes, limit=limit)


def first_samples(run: RunSettings, settings: MeasureSettings) -> int | None:
    """How many examples are measured first; None: all."""
    if settings.time is not None:
        return run.samples or FIRST_IN_TIME
    if settings.decide is not None:
        return run.samples or deciding.FIRST
    if settings.sampling_error is None:
        return run.samples
    return run.samples or FIRST_SAMPLES


def shares_of_time(settings: MeasureSettings, checkpoints: int) -> TimeShares | None:
    """The checkpoints' shares of the run's time, if it is limited; it begins now."""
    return None if settings.time is None else TimeShares(settings.time, checkpoints)
