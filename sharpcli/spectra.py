"""From checkpoints and a task to spectral densities: the one call behind `sharp spectrum`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from .checkpoint import load_checkpoint
from .diagnosis import check_deterministic
from .environment import environment
from .errors import SharpError, UsageError
from .linalg.density import bulk, density
from .linalg.quadrature import Quadrature, choose_probes, quadrature
from .measures.hessian import suspicion
from .memory import available_memory, readable_size
from .operators import SelfCheck, make_operator
from .processes import size
from .progress import Begin, silent
from .randomness import global_random_state_kept
from .results import Failure, Report, Scalar, scalar_fields
from .settings import RunSettings, SpectrumSettings
from .studies import (
    Loaded,
    Studies,
    check_curvature,
    matched,
    resolve_device,
    said_by_torch,
)
from .tasks import Task

__all__ = ["spectra_of_checkpoints"]

# Share of the free memory that the probes' bases may take; and probes that advance in step, which
# pays where an operator rebuilds something for each product.
_BASES_SHARE = 0.25
_TOGETHER = 4
_INTERRUPTED = Failure("interrupted before it was measured", "run the same command again")
# An end of the spectrum is not found where its residual is above this share of the width.
_END = 0.05


def spectra_of_checkpoints(
    paths: Sequence[str | Path],
    task: str | Task | None = None,
    task_options: Mapping[str, str] | None = None,
    run: RunSettings | None = None,
    settings: SpectrumSettings | None = None,
    *,
    begin: Begin = lambda _: silent,
) -> Report:
    """The spectral density of each checkpoint; one that fails is reported in its place.

    What names the task and what ends a run is as in `measure_checkpoints`. Cost: probes·steps
    products a checkpoint, or one for each parameter where that is less.
    """
    run, settings = run or RunSettings(), settings or SpectrumSettings()
    device = resolve_device(run.device)
    studies = Studies(task, task_options or {}, run, device, begin)
    results: list[dict[str, Any]] = []
    misuses: list[UsageError] = []
    with global_random_state_kept():
        if task is not None:
            studies.of({})
        for path in paths:
            try:
                results.append(_of_checkpoint(Path(path), studies, settings, begin))
            except UsageError as error:
                misuses.append(error)
                results.append(_failed({"path": str(path)}, Failure(error.message, error.hint)))
            except KeyboardInterrupt:
                break
    if misuses and len(misuses) == len(paths):
        raise misuses[0]
    results += [_failed({"path": str(path)}, _INTERRUPTED) for path in paths[len(results) :]]
    return Report(
        kind="spectrum",
        settings={"run": asdict(run), "spectrum": asdict(settings)},
        environment=environment(device),
        task=studies.description(),
        results=results,
    )


def _failed(about: Mapping[str, Any], error: Failure) -> dict[str, Any]:
    return {"checkpoint": about, "status": "failed", "error": error}


def _of_checkpoint(
    path: Path, studies: Studies, settings: SpectrumSettings, begin: Begin
) -> dict[str, Any]:
    """One checkpoint's result, failed where there is none."""
    about: dict[str, Any] = {"path": str(path)}
    try:
        checkpoint = load_checkpoint(path)
        about |= {"sha256": checkpoint.sha256, "metadata": checkpoint.metadata}
        loaded = matched(checkpoint, studies.of(checkpoint.metadata))
        about |= {"parameters": loaded.study.network.size, "notes": loaded.notes}
        if loaded.study.run.parameters:
            about["parameters_in_all"] = loaded.study.size
        return {"checkpoint": about, "status": "ok", **_spectrum(loaded, settings, begin)}
    except UsageError:
        raise
    except SharpError as error:
        if size() > 1:  # the others may be waiting for this process's share
            raise
        return _failed(about, Failure(error.message, error.hint))
    except RuntimeError as error:
        said = said_by_torch(error)
        if said is None:
            raise
        return _failed(about, said)


def _spectrum(loaded: Loaded, settings: SpectrumSettings, begin: Begin) -> dict[str, Any]:
    study, theta = loaded.study, loaded.theta
    objective = study.objectives(loaded.match.tensors)[study.run.split]
    objective.memory = settings.curvature.memory
    check_deterministic(objective, theta)
    warnings: list[str] = []
    if study.checked is None:
        study.checked = check_curvature(study, loaded.match.tensors, warnings, settings.curvature)
    probes = settings.probes or choose_probes(objective.size)
    together = _together(theta, probes, settings.steps, settings.curvature.memory)
    started = time.perf_counter()
    operator = make_operator(objective, theta, settings.curvature)
    try:
        found = quadrature(
            operator,
            probes=probes,
            steps=settings.steps,
            seed=study.run.seed,
            together=together,
            progress=begin(f"{loaded.checkpoint.path.name}: spectrum"),
        )
    finally:
        operator.release()
    seconds = time.perf_counter() - started
    numbers = _numbers(found, study.checked)
    numbers |= {
        "operator": settings.curvature.operator,
        "size": found.size,
        "probes": 0 if not found.rest else probes,
        "steps": 0 if not found.rest else settings.steps,
        "products": found.products,
        "seconds": seconds,
    }
    return {**numbers, **({"warnings": warnings} if warnings else {})}


def _together(theta: Tensor, probes: int, steps: int, memory: int | None) -> int:
    """How many probes advance in step; raises `SharpError` where not even one has room."""
    if theta.numel() <= probes * steps:
        return 1
    need = steps * theta.numel() * theta.element_size()
    free = available_memory(theta.device)
    free = free if memory is None else min(memory, free)
    if need > free:
        fewer = int(steps * free / need / 2)
        raise SharpError(
            f"{steps} Lanczos steps need {readable_size(need)} for their basis, and "
            f"{readable_size(free)} are free",
            f"take fewer with --steps {fewer}" if fewer >= 5 else "use a machine with more memory",
        )
    return max(1, min(_TOGETHER, probes, int(_BASES_SHARE * free / need)))


def _numbers(found: Quadrature, check: SelfCheck | None) -> dict[str, Any]:
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

    above = bulk(found)
    nodes, weights = found.nodes()
    grid, curve = density(found)
    values = zip(above.outliers.tolist(), above.errors.tolist(), strict=True)
    return {
        "largest": end(high, high_error),
        "smallest": end(low, low_error),
        "bulk_edge": end(above.edge, above.error),
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
