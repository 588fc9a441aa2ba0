"""Spectral densities of checkpoints on a task, for `sharp spectrum`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.checkpoint import read_checkpoint
from sharpcli.curvature import Rounding, SelfCheck, make_operator
from sharpcli.curvature.memory_plan import Budget, share_memory_of_probes
from sharpcli.documents.environment import environment
from sharpcli.documents.results import FailedResult, MeasuredCheckpoint, Report
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.spectra import Outliers, SpectralNumbers, Spectrum
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import setting
from sharpcli.linalg.bulk import bulk
from sharpcli.linalg.density import density
from sharpcli.linalg.eigsh import is_settled
from sharpcli.linalg.quadrature import Quadrature, choose_probes, quadrature
from sharpcli.measures.hessian import at_most, is_semidefinite, suspicion
from sharpcli.measures.sampling import degrees_of_freedom, too_few
from sharpcli.objective.checks import end_of_float64
from sharpcli.objective.objective import Objective
from sharpcli.objective.reliability import sampling_status, warning, widened
from sharpcli.objective.shards import shards, share_left
from sharpcli.runs.course import Course
from sharpcli.runs.failures import each_checkpoint
from sharpcli.runs.finished import Finished
from sharpcli.runs.in_memory import as_checkpoint, given, run_of
from sharpcli.runs.preflight import ready
from sharpcli.runs.studies import Studies
from sharpcli.runs.study import Loaded, matched, prepare
from sharpcli.runtime.devices import resolve_device
from sharpcli.runtime.progress import UNSAID, Begin, Notes, Progress, foretelling, silent
from sharpcli.runtime.randomness import global_random_state_kept
from sharpcli.settings.curvature import SpectrumSettings
from sharpcli.settings.measuring import RunSettings
from sharpcli.tasks import Task

__all__ = ["spectra_of_checkpoints", "spectrum_model"]

# An end of the spectrum has converged if its error is at most this share of the spectrum's width,
# or of the largest |eigenvalue| if that is larger.
_END = 0.05
# The spectra of this many shards give a sample's sampling error. Their data are one pass together,
# but each shard has its own Lanczos vectors. A standard error from eight is good to a quarter.
_SHARDS = 8
# The numbers of a spectrum that are one scalar.
_SCALARS = ("largest", "smallest", "bulk_edge", "outliers")


def spectra_of_checkpoints(
    paths: Sequence[str | Path],
    task: str | Path | Task | None = None,
    task_options: Mapping[str, str] | None = None,
    run: RunSettings | None = None,
    settings: SpectrumSettings | None = None,
    *,
    begin: Begin = lambda _: silent,
    notes: Notes = UNSAID,
    finished: Finished | None = None,
) -> Report:
    """The spectral density of each checkpoint; a failure is shown in the checkpoint's place.

    Arguments and errors are as in `measure_checkpoints`.

    Cost: probes·steps products per checkpoint, or one per parameter if that is less; twice that
    on a sample of the data.
    """
    run, settings = run or RunSettings(), settings or SpectrumSettings()
    device = resolve_device(run.device)
    studies = Studies(
        task,
        task_options or {},
        run,
        device,
        begin,
        memory=settings.curvature.memory,
        splits=(run.split,),
    )
    course, finished = Course(paths), finished or Finished()

    def found(path: Path, about: dict[str, Any]) -> Spectrum | FailedResult | Mapping[str, Any]:
        course.next(path)
        checkpoint = read_checkpoint(path, run.weights)
        about |= {"sha256": checkpoint.sha256, "metadata": checkpoint.metadata}
        kept = finished.result_of(path, checkpoint, studies.of(checkpoint))
        if kept is not None:
            return kept
        loaded = studies.loaded(checkpoint)
        result = _spectrum(loaded, about, settings, course.titled(begin), notes.about(path.name))
        course.measured()
        return result

    written = {"run": asdict(run), "spectrum": asdict(settings)}
    finished.begin("spectrum", written)
    with global_random_state_kept():
        if task is not None:
            studies.check()
        results = each_checkpoint(
            paths,
            found,
            lambda about, error: FailedResult(checkpoint=MeasuredCheckpoint(**about), error=error),
            done=finished.add,
        )
    return Report(
        kind="spectrum",
        settings=written,
        environment=environment(device),
        task=studies.description(),
        results=results,
    )


def spectrum_model(
    model: nn.Module,
    train: Any,
    test: Any = None,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    predict: Callable[[nn.Module, Any], Any] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    samples: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    run: RunSettings | None = None,
    settings: SpectrumSettings | None = None,
    begin: Begin = lambda _: silent,
    notes: Notes = UNSAID,
) -> Report:
    """The spectral density of the Hessian of a model in memory.

    The model is copied, and stays as it is. Arguments are those of `measure_model`.

    Args:
        model: with the weights to measure.
        train: training data.
        test: test data of the same form, for `run` with the test split.
        loss: returns one loss for each example of (outputs, batch).
        predict: returns the outputs of (model, batch).
        collate: makes a batch of a list of rows.
        samples: size of a random subset of the data, in place of that in `run`.
        device: where it is computed, in place of that in `run`.
        dtype: in which precision, in place of that in `run`.
        seed: of everything random, in place of that in `run`.
        run: the data, the device and the precision.
        settings: probes, steps and the matrix.
        begin: opens a progress display.
        notes: receives messages during the run.

    Errors pass as `SharpError`. Cost: as for `spectra_of_checkpoints`.
    """
    run = run_of(run, samples=samples, device=device, dtype=dtype, seed=seed)
    settings = settings or SpectrumSettings()
    place = resolve_device(run.device)
    made = given(model, train, test, loss=loss, predict=predict, collate=collate)
    checkpoint = as_checkpoint(model, made.task.name)
    about: dict[str, Any] = {"path": made.task.name, "sha256": checkpoint.sha256, "metadata": {}}
    with global_random_state_kept():
        study = prepare(made.task, run, place, begin=begin)
        loaded = matched(checkpoint, study)
        found = _spectrum(loaded, about, settings, begin, notes.about(made.task.name))
    return Report(
        kind="spectrum",
        settings={"run": asdict(run), "spectrum": asdict(settings)},
        environment=environment(place),
        task=study.description(),
        results=[found],
        notes=made.notes,
    )


def _spectrum(
    loaded: Loaded,
    about: Mapping[str, Any],
    settings: SpectrumSettings,
    begin: Begin,
    notes: Notes,
) -> Spectrum:
    """One checkpoint's result; `about` has facts about the checkpoint."""
    study, warnings = loaded.study, list[str]()
    objective = ready(loaded, settings.curvature, warnings)[study.run.split]
    probes = settings.probes or choose_probes(objective.size)
    settings = replace(settings, probes=probes)
    memory = share_memory_of_probes(
        objective, loaded.theta, settings.curvature, probes, settings.steps
    )
    notes.detail(str(memory))
    title = "spectrum"
    started = time.perf_counter()

    seed = study.run.seed
    rounding = Rounding(objective, loaded.theta, settings.curvature, seed=seed).of_norm

    def measured(part: Objective, progress: Progress) -> Quadrature:
        return _quadrature(part, loaded.theta, settings, memory, seed, progress, rounding)

    found = measured(objective, foretelling(begin(title), notes, memory.at_most))
    semidefinite = is_semidefinite(settings.curvature.operator, objective, study.checked)
    numbers = _numbers(found, study.checked, semidefinite)
    if objective.rows.sampled and objective.rows.count >= 2 * _SHARDS:
        parts = [
            _numbers(measured(shard, begin(name)), None, semidefinite)
            for name, shard in zip(
                [f"{title}, sampling error {i} of {_SHARDS}" for i in range(1, _SHARDS + 1)],
                shards(objective, study.run.seed, _SHARDS),
                strict=True,
            )
        ]
        carried = objective.evaluate(loaded.theta).loss.carriers or math.inf
        numbers = _with_errors(numbers, parts, objective, carried)
        if said := warning(vars(numbers), objective.rows.doubt):
            warnings.append(said)
    elif objective.rows.sampled:
        numbers = _marked(numbers)
        warnings.append(
            f"{too_few(objective.rows.count)} to tell the sampling error of a spectrum: take "
            f"{2 * _SHARDS} or more"
        )
    if vanished := end_of_float64(objective, objective.loss(loaded.theta), loaded.theta):
        warnings.append(vanished)
    return Spectrum(
        checkpoint=MeasuredCheckpoint(**about, **loaded.description()),
        **vars(numbers),
        operator=settings.curvature.operator,
        size=found.size,
        probes=0 if not found.rest else probes,
        steps=0 if not found.rest else settings.steps,
        products=found.products,
        seconds=time.perf_counter() - started,
        warnings=warnings,
    )


def _quadrature(
    objective: Objective,
    theta: Tensor,
    settings: SpectrumSettings,
    memory: Budget,
    seed: int,
    progress: Progress,
    rounding: float,
) -> Quadrature:
    assert settings.probes is not None
    operator = make_operator(objective, theta, settings.curvature, graphs=memory.graphs)
    try:
        return quadrature(
            operator,
            probes=settings.probes,
            steps=settings.steps,
            seed=seed,
            together=memory.block,
            most_known=memory.known,
            basis_device=memory.device,
            rounding=rounding,
            progress=progress,
        )
    finally:
        operator.release()


def _with_errors(
    numbers: SpectralNumbers,
    parts: Sequence[SpectralNumbers],
    objective: Objective,
    carried: float,
) -> SpectralNumbers:
    """The numbers of a sample with their sampling errors, from the numbers of its shards.

    The variance of a number is its variance over the shards divided by their number, times the
    finite-population factor `left`. If the number has a bias that goes with 1/N, the shards show
    it, and it is added to the error. The error is widened for the few shards, and for the few
    examples that `carried` most of the loss. It is unreliable if the sample is in doubt.

    Source: random groups, Wolter 2007, chapter 2.
    """
    count, left = len(parts), share_left(objective)

    def sampled(value: float, values: Sequence[float]) -> dict[str, Any]:
        over = torch.tensor(values, dtype=torch.float64)
        bias = (float(over.mean()) - value) / (count - 1) * left
        error = math.hypot((float(over.var()) / count * left) ** 0.5, bias)
        return {
            "sampling_error": widened(error, degrees_of_freedom(over, carried)),
            "sampling_status": sampling_status(objective.rows.doubt, carried),
        }

    def told(scalar: Scalar, others: Sequence[Scalar]) -> Scalar:
        values = [float(other.value) for other in others if other.value is not None]
        if scalar.value is None or len(values) < len(others):
            return scalar
        return replace(scalar, **sampled(float(scalar.value), values))

    by_moment = zip(numbers.moments, *(part.moments for part in parts), strict=True)
    return replace(
        numbers,
        moments=[told(moment, others) for moment, *others in by_moment],
        **dict[str, Any](
            (name, told(getattr(numbers, name), [getattr(part, name) for part in parts]))
            for name in _SCALARS
        ),
    )


def _marked(numbers: SpectralNumbers) -> SpectralNumbers:
    """The numbers of a sample too small for shards, whose sampling errors are not known."""
    unknown: dict[str, Any] = {"sampling_status": SamplingStatus.UNRELIABLE}
    return replace(
        numbers,
        moments=[replace(moment, **unknown) for moment in numbers.moments],
        **{name: replace(getattr(numbers, name), **unknown) for name in _SCALARS},
    )


def _numbers(found: Quadrature, check: SelfCheck | None, semidefinite: bool) -> SpectralNumbers:
    """The numbers of a spectrum: both ends, the bulk's edge, outliers, moments and the curve.

    An end has converged if its error is at most 5 % of the spectrum's width.
    """
    doubt = suspicion(check)
    coarse = (
        Status.MAX_PRODUCTS,
        f"the steps were too few to find this end: raise {setting('steps')}",
    )
    (high, high_error), (low, low_error) = found.ends()
    extent = max(high - low, abs(high), abs(low))

    def scalar(
        value: float, error: float | None, kind: Any = "residual", *, met: bool = True
    ) -> Scalar:
        status, advice = doubt or ((Status.CONVERGED, None) if met else coarse)
        return Scalar(value, error, kind if error is not None else None, status, advice)

    def end(value: float, error: float) -> Scalar:
        return scalar(value, error, met=error <= _END * extent)

    lowest = end(low, low_error)
    if not semidefinite and found.rest and not is_settled(low, low_error):
        lowest = at_most(lowest, found.rounding)
    above = bulk(found)

    def of_bulk(value: float, error: float | None) -> Scalar:
        if above.resolved or doubt:
            return scalar(value, error)
        return Scalar(value, status=Status.UNRESOLVED, advice=_unresolved(above.copies))

    nodes, weights = found.nodes()
    grid, curve = density(found)
    values = zip(above.outliers.tolist(), above.errors.tolist(), strict=True)
    return SpectralNumbers(
        largest=end(high, high_error),
        smallest=lowest,
        bulk_edge=of_bulk(above.edge, above.error),
        outliers=Outliers(
            **vars(of_bulk(len(above.outliers), None)),
            eigenvalues=[scalar(value, max(error, found.rounding)) for value, error in values],
        ),
        moments=[scalar(m.value, m.error, "standard_error") for m in found.moments()],
        nodes=nodes.tolist(),
        weights=weights.tolist(),
        grid=grid.tolist(),
        density=curve.tolist(),
    )


def _unresolved(copies: bool) -> str:
    """What to do where nobody knows where the bulk ends."""
    if not copies:
        return f"the steps were too few to tell where the bulk ends: raise {setting('steps')}"
    return (
        "there are as many copies of an eigenvalue as probes, or more, so where the bulk ends is "
        f"not known: raise {setting('probes')}"
    )
