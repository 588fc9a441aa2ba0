"""From checkpoints and a task to spectral densities: the one call behind `sharp spectrum`."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .budget import Budget, share_memory_of_probes
from .checkpoint import load_checkpoint
from .environment import environment
from .linalg.density import bulk, density
from .linalg.eigsh import is_settled
from .linalg.quadrature import Quadrature, choose_probes, quadrature
from .measures.hessian import at_most, is_semidefinite, suspicion
from .measures.sampling import shards, share_left, too_few
from .objective import Objective
from .operators import SelfCheck, make_operator
from .outcomes import each_checkpoint
from .progress import UNSAID, Begin, Notes, Progress, foretelling, silent
from .randomness import global_random_state_kept
from .results import Report, Scalar, scalar_fields
from .settings import RunSettings, SpectrumSettings
from .studies import Loaded, Studies, matched, ready, resolve_device
from .tasks import Task

__all__ = ["spectra_of_checkpoints"]

# An end of the spectrum is not found where its residual is above this share of the width.
_END = 0.05
# Shards of a sample whose own spectra tell its sampling error: their data are a pass together, but
# each has its own Lanczos vectors. A standard error from eight is good to about a quarter.
_SHARDS = 8


def spectra_of_checkpoints(
    paths: Sequence[str | Path],
    task: str | Path | Task | None = None,
    task_options: Mapping[str, str] | None = None,
    run: RunSettings | None = None,
    settings: SpectrumSettings | None = None,
    *,
    begin: Begin = lambda _: silent,
    notes: Notes = UNSAID,
) -> Report:
    """The spectral density of each checkpoint; one that fails is reported in its place.

    What names the task and what ends a run is as in `measure_checkpoints`. Cost: probes·steps
    products a checkpoint, or one for each parameter where that is less; on a sample of the data
    twice that.
    """
    run, settings = run or RunSettings(), settings or SpectrumSettings()
    device = resolve_device(run.device)
    studies = Studies(task, task_options or {}, run, device, begin)

    def found(path: Path, about: dict[str, Any]) -> dict[str, Any]:
        checkpoint = load_checkpoint(path)
        about |= {"sha256": checkpoint.sha256, "metadata": checkpoint.metadata}
        loaded = matched(checkpoint, studies.of(checkpoint.metadata))
        numbers = _spectrum(loaded, settings, begin, notes.about(path.name))
        return {"checkpoint": {**about, **loaded.description()}, "status": "ok", **numbers}

    with global_random_state_kept():
        if task is not None:
            studies.of({})
        results = each_checkpoint(
            paths,
            found,
            lambda about, error: {"checkpoint": about, "status": "failed", "error": error},
        )
    return Report(
        kind="spectrum",
        settings={"run": asdict(run), "spectrum": asdict(settings)},
        environment=environment(device),
        task=studies.description(),
        results=results,
    )


def _spectrum(
    loaded: Loaded, settings: SpectrumSettings, begin: Begin, notes: Notes
) -> dict[str, Any]:
    study, warnings = loaded.study, list[str]()
    objective = ready(loaded, settings.curvature, warnings)[study.run.split]
    probes = settings.probes or choose_probes(objective.size)
    settings = replace(settings, probes=probes)
    memory = share_memory_of_probes(
        objective, loaded.theta, settings.curvature, probes, settings.steps
    )
    notes.detail(str(memory))
    title = f"{loaded.checkpoint.path.name}: spectrum"
    started = time.perf_counter()

    def measured(part: Objective, progress: Progress) -> Quadrature:
        return _quadrature(part, loaded.theta, settings, memory, study.run.seed, progress)

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
        numbers = _with_errors(numbers, parts, share_left(objective))
    elif objective.rows.sampled:
        warnings.append(
            f"{too_few(objective.rows.count)} to tell the sampling error of a spectrum: take "
            f"{2 * _SHARDS} or more"
        )
    numbers |= {
        "operator": settings.curvature.operator,
        "size": found.size,
        "probes": 0 if not found.rest else probes,
        "steps": 0 if not found.rest else settings.steps,
        "products": found.products,
        "seconds": time.perf_counter() - started,
    }
    return {**numbers, **({"warnings": warnings} if warnings else {})}


def _quadrature(
    objective: Objective,
    theta: Tensor,
    settings: SpectrumSettings,
    memory: Budget,
    seed: int,
    progress: Progress,
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
            progress=progress,
        )
    finally:
        operator.release()


def _with_errors(
    numbers: dict[str, Any], parts: Sequence[Mapping[str, Any]], left: float
) -> dict[str, Any]:
    """The numbers of a sample with their sampling errors, from those of its shards.

    Random groups (Wolter 2007, chapter 2): a number's variance is that over the shards by their
    number, `left` the part of it that is not of the finite population. Where a number goes with
    1/N, shards show how far the sample's is off, which is counted into the error.
    """
    count = len(parts)

    def error(value: float, values: Sequence[float]) -> float:
        bias = (statistics.fmean(values) - value) / (count - 1) * left
        return math.hypot((statistics.variance(values) / count * left) ** 0.5, bias)

    def told(scalar: Scalar, others: Sequence[Scalar]) -> Scalar:
        if scalar.value is None or any(other.value is None for other in others):
            return scalar
        values = [float(other.value) for other in others if other.value is not None]
        return replace(scalar, sampling_error=error(float(scalar.value), values))

    found = dict(numbers)
    for key in ("largest", "smallest", "bulk_edge"):
        found[key] = told(numbers[key], [part[key] for part in parts])
    found["moments"] = [
        told(moment, [part["moments"][i] for part in parts])
        for i, moment in enumerate(numbers["moments"])
    ]
    outliers = numbers["outliers"]
    counts = [float(part["outliers"]["value"]) for part in parts]
    found["outliers"] = {**outliers, "sampling_error": error(float(outliers["value"]), counts)}
    return found


def _numbers(found: Quadrature, check: SelfCheck | None, semidefinite: bool) -> dict[str, Any]:
    doubt = suspicion(check)
    coarse = ("max_products", "the steps were too few to find this end: raise --steps")
    (high, high_error), (low, low_error) = found.ends()
    width = high - low

    def scalar(
        value: float, error: float | None, kind: Any = "residual", *, met: bool = True
    ) -> Scalar:
        status, advice = doubt or (("converged", None) if met else coarse)
        return Scalar(value, error, kind if error is not None else None, status, advice)

    def end(value: float, error: float) -> Scalar:
        error = max(error, found.rounding)
        return scalar(value, error, met=error <= max(_END * width, found.rounding))

    lowest = end(low, low_error)
    if not semidefinite and found.rest and not is_settled(low, low_error):
        lowest = at_most(lowest)
    above = bulk(found)
    nodes, weights = found.nodes()
    grid, curve = density(found)
    values = zip(above.outliers.tolist(), above.errors.tolist(), strict=True)
    return {
        "largest": end(high, high_error),
        "smallest": lowest,
        "bulk_edge": scalar(above.edge, max(above.error, found.rounding), met=above.resolved),
        "outliers": scalar_fields(
            scalar(len(above.outliers), None, met=above.resolved),
            eigenvalues=[scalar(value, max(error, found.rounding)) for value, error in values],
        ),
        "moments": [scalar(m.value, m.error, "standard_error") for m in found.moments()],
        "nodes": nodes.tolist(),
        "weights": weights.tolist(),
        "grid": grid.tolist(),
        "density": curve.tolist(),
    }
