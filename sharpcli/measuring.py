"""From checkpoints and a task to a report: the one call behind `sharp measure`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint, first_not_finite, load_checkpoint, match_tensors
from .comparison import training_loss_warning
from .data import Rows, read_rows
from .environment import environment
from .errors import SharpError, UsageError
from .labels import short_labels
from .measures import Measure, choose, compute
from .measures.context import Context
from .memory import is_out_of_memory
from .network import Network
from .objective import Objective
from .operators import SelfCheck, self_check
from .progress import Begin, silent
from .randomness import global_random_state_kept
from .results import CheckpointResult, Failure, Report
from .settings import MeasureSettings, RunSettings
from .tasks import Task, defaults, load_task, task_from_metadata

__all__ = ["Study", "measure_checkpoints", "measure_model", "prepare", "resolve_device"]

# Examples on which second derivatives are checked in float64: enough that every layer sees some,
# few enough to cost nothing.
_CHECKED_EXAMPLES = 16


@dataclass
class Study:
    """A task made ready to measure any of its checkpoints: the network, and its data in memory."""

    task: Task
    network: Network
    rows: dict[str, Rows]
    run: RunSettings
    checked: SelfCheck | None = None

    def objectives(self, tensors: Mapping[str, Tensor]) -> dict[str, Objective]:
        """The objective of each split with a checkpoint's buffers."""
        fixed = self.network.fixed(tensors)
        return {
            name: Objective(self.network, rows, fixed, batch_size=self.run.batch_size)
            for name, rows in self.rows.items()
        }


def measure_checkpoints(
    paths: Sequence[str | Path],
    task: str | Task | None = None,
    task_options: Mapping[str, str] | None = None,
    run: RunSettings | None = None,
    settings: MeasureSettings | None = None,
    *,
    begin: Begin = lambda _: silent,
) -> Report:
    """Measure each checkpoint on a task; a checkpoint that fails is reported in its place.

    `task` is a `Task`, or names one (a file, `package.module:name`, a built-in); without it, the
    built-in task that a checkpoint's own metadata name is used. Ctrl-C ends the run with what is
    finished. Raises `SharpError` where nothing can be measured at all: no task, no data, an
    unknown measure. The global random states are left as they were.
    """
    run, settings = run or RunSettings(), settings or MeasureSettings()
    measures = choose(settings.measures)
    device = resolve_device(run.device)
    studies = _Studies(task, dict(task_options or {}), run, device, begin)
    results: list[CheckpointResult] = []
    misuses: list[UsageError] = []
    with global_random_state_kept():
        if task is not None:
            _check_size(studies.of({}), measures, settings)
        for path in paths:
            try:
                results.append(_measured(Path(path), studies, measures, settings, begin))
            except UsageError as error:
                misuses.append(error)
                said = Failure(error.message, error.hint)
                results.append(CheckpointResult({"path": str(path)}, "failed", error=said))
            except KeyboardInterrupt:
                break
    if misuses and len(misuses) == len(paths):
        raise misuses[0]
    for path in paths[len(results) :]:
        stopped = Failure("interrupted before it was measured", "run the same command again")
        results.append(CheckpointResult({"path": str(path)}, "failed", error=stopped))
    return Report(
        kind="measure",
        settings={"run": asdict(run), "measure": asdict(settings)},
        environment=environment(device),
        task=studies.description(),
        results=results,
        warnings=[w for w in [_loss_warning(results)] if w],
    )


def measure_model(
    model: nn.Module,
    train: Any,
    test: Any = None,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    predict: Callable[[nn.Module, Any], Any] | None = None,
    metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    run: RunSettings | None = None,
    settings: MeasureSettings | None = None,
    begin: Begin = lambda _: silent,
) -> Report:
    """Measure a model that is in memory, as a notebook has it.

    `train` and `test` are map-style data sets or tuples of tensors (N, …); `loss`, `predict` and
    `metrics` are what a task file would define. The model is copied: its parameters, buffers, mode
    flags and `.grad` stay as they are. Raises `SharpError` where it cannot be measured.
    """
    run, settings = run or RunSettings(), settings or MeasureSettings()
    measures = choose(settings.measures)
    device = resolve_device(run.device)
    name = type(model).__name__
    task = Task(
        name=name,
        options={},
        fingerprint="",
        model=lambda: model,
        data={"train": train, "test": test}.__getitem__,
        predict=predict or defaults.predict,
        loss=loss or defaults.loss_for(name),
        metrics=metrics or defaults.metrics,
    )
    checkpoint = Checkpoint(Path(name), dict(model.state_dict()), {}, "")
    with global_random_state_kept():
        study = prepare(task, run, device, begin=begin)
        _check_size(study, measures, settings)
        about: dict[str, Any] = {"path": name, "metadata": {}}
        result = _measure_tensors(checkpoint, about, study, measures, settings, begin)
    return Report(
        kind="measure",
        settings={"run": asdict(run), "measure": asdict(settings)},
        environment=environment(device),
        task=_described(study),
        results=[result],
    )


def prepare(
    task: Task, run: RunSettings, device: torch.device, *, begin: Begin = lambda _: silent
) -> Study:
    """Build a task's model and read its data, train and (where there is one) test.

    Raises `SharpError` where the task's functions fail, where data are empty or random, and where
    there are no test data although they are what is to be measured on.
    """
    torch.manual_seed(run.seed)
    dtype = torch.float64 if run.dtype == "float64" else torch.float32
    narrow = torch.bfloat16 if run.dtype == "bfloat16" else None
    model = task.model()
    network = Network(model, task, device=device, dtype=dtype, compute=narrow, mode=run.mode)
    rows = {}
    for name in ("train", "test"):
        data = task.data(name)
        if data is None and name == run.split:
            raise SharpError(
                f"{task.name}: data('{name}') gives None: there are no {name} data to measure on",
                "leave --split out, which measures on the training data",
            )
        if data is None:
            continue
        rows[name] = read_rows(
            data,
            name=f"{name} data of {task.name}",
            samples=run.samples if name == run.split else None,
            seed=run.seed,
            collate=task.collate,
            progress=begin(f"reading the {name} data"),
        ).to(device, network.compute)
    return Study(task, network, rows, run)


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first GPU, else the CPU. Raises `UsageError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(
                f"--device {name}: this PyTorch ({torch.__version__}) sees {count} CUDA devices",
                "use --device cpu, or install a CUDA build of PyTorch and check the driver",
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: there is no MPS device", "use --device cpu")
    return device


class _Studies:
    """The studies of a run, one a task and its options; most runs have one."""

    def __init__(
        self,
        task: str | Task | None,
        options: dict[str, str],
        run: RunSettings,
        device: torch.device,
        begin: Begin,
    ) -> None:
        self._task, self._options, self._run = task, options, run
        self._device, self._begin = device, begin
        self._made: dict[tuple[str, ...], Study] = {}

    def of(self, metadata: Mapping[str, Any]) -> Study:
        """The study of the task that was asked for, or that a checkpoint's metadata name."""
        if isinstance(self._task, Task):
            key: tuple[str, ...] = (self._task.fingerprint,)
            if key not in self._made:
                self._made[key] = prepare(self._task, self._run, self._device, begin=self._begin)
            return self._made[key]
        spec, options = self._task, self._options
        if spec is None:
            named = task_from_metadata(metadata)
            if named is None:
                raise UsageError(
                    "no task: a checkpoint has tensors only, the model, the loss and the data come "
                    "from a task",
                    "name one with --task (a file, package.module:name, or a name from "
                    "`sharp tasks`); `sharp init` writes a task file to start from",
                )
            spec, options = named[0], {**named[1], **self._options}
        key = (spec, *(f"{name}={value}" for name, value in sorted(options.items())))
        if key not in self._made:
            task = load_task(spec, options)
            self._made[key] = prepare(task, self._run, self._device, begin=self._begin)
        return self._made[key]

    def description(self) -> dict[str, Any]:
        """The (first) task as the document has it."""
        for study in self._made.values():
            return _described(study)
        name = self._task.name if isinstance(self._task, Task) else self._task
        return {"name": name, "options": {}, "fingerprint": None, "examples": {}}


def _described(study: Study) -> dict[str, Any]:
    return {
        "name": study.task.name,
        "options": dict(study.task.options),
        "fingerprint": study.task.fingerprint,
        "examples": {name: rows.count for name, rows in study.rows.items()},
    }


def _measured(
    path: Path,
    studies: _Studies,
    measures: Sequence[Measure],
    settings: MeasureSettings,
    begin: Begin,
) -> CheckpointResult:
    """One checkpoint's result, failed where it could not be measured."""
    about: dict[str, Any] = {"path": str(path)}
    try:
        checkpoint = load_checkpoint(path)
        about |= {"sha256": checkpoint.sha256, "metadata": checkpoint.metadata}
        study = studies.of(checkpoint.metadata)
        _check_size(study, measures, settings)
        return _measure_tensors(checkpoint, about, study, measures, settings, begin)
    except UsageError:
        raise
    except SharpError as error:
        return CheckpointResult(about, "failed", error=Failure(error.message, error.hint))
    except RuntimeError as error:
        said = _said_by_torch(error)
        if said is None:
            raise
        return CheckpointResult(about, "failed", error=said)


def _said_by_torch(error: RuntimeError) -> Failure | None:
    """What an exception of torch's says about the task or the machine, None where it is a bug."""
    text = str(error).splitlines()[0] if str(error) else ""
    if is_out_of_memory(error):
        return Failure(f"out of memory: {text}", "use --samples")
    if "modified by an inplace operation" in text:
        return Failure(
            f"the loss cannot be differentiated: {text.partition(':')[0]}",
            "replace the model's in-place operations (x += y, inplace=True) by others",
        )
    return None


def _measure_tensors(
    checkpoint: Checkpoint,
    about: dict[str, Any],
    study: Study,
    measures: Sequence[Measure],
    settings: MeasureSettings,
    begin: Begin,
) -> CheckpointResult:
    match = match_tensors(checkpoint, study.network.model.state_dict())
    bad = first_not_finite(match.tensors)
    if bad is not None:
        raise SharpError(
            f"{checkpoint.path}: the tensor '{bad}' holds NaN or Inf",
            "measure a checkpoint from before the run diverged",
        )
    theta = study.network.flatten(match.tensors)
    objectives = study.objectives(match.tensors)
    objective = objectives[study.run.split]
    objective.check_deterministic(theta)
    warnings: list[str] = []
    if study.checked is None and any(measure.needs_curvature for measure in measures):
        study.checked = _check_curvature(study, match.tensors, warnings)
    context = Context(
        objective,
        objectives,
        theta,
        settings,
        seed=study.run.seed,
        self_check=study.checked,
        warnings=warnings,
        begin=lambda name: begin(f"{checkpoint.path.name}: {name}"),
    )
    try:
        found = compute(measures, context)
    finally:
        context.release()
    about |= {
        "parameters": study.network.size,
        "notes": [*checkpoint.notes, *match.notes],
    }
    return CheckpointResult(about, "ok", found, warnings=warnings)


def _check_curvature(
    study: Study, tensors: Mapping[str, Tensor], warnings: list[str]
) -> SelfCheck | None:
    """Check the model's second derivatives in float64 on a few examples, once for a run."""
    network = study.network
    if network.device.type == "mps":
        warnings.append("second derivatives were not checked: this device has no float64")
        return None
    double = Network(
        network.model,
        study.task,
        device=network.device,
        dtype=torch.float64,
        mode=study.run.mode,
    )
    rows = study.rows[study.run.split].head(_CHECKED_EXAMPLES)
    objective = Objective(double, rows, double.fixed(tensors), batch_size=rows.count)
    try:
        return self_check(objective, double.flatten(tensors), seed=study.run.seed)
    except SharpError as error:
        warnings.append(f"second derivatives were not checked in float64: {error.message}")
        return None


def _check_size(study: Study, measures: Sequence[Measure], settings: MeasureSettings) -> None:
    """Refuse more eigenvalues than there are, and fewer products than the eigenvalues take."""
    size, top, most = study.network.size, settings.top, settings.max_products
    if not any(measure.name == "hessian" for measure in measures):
        return
    if top > size:
        raise UsageError(
            f"--top {top}: the model has only {size} parameter{'s' if size > 1 else ''}",
            f"ask for {size} eigenvalue{'s' if size > 1 else ''} at most",
        )
    if most is not None and most < top + 2:
        raise UsageError(
            f"--max-products {most}: too few for {top} eigenvalues and the smallest",
            f"allow {top + 2} or more, or ask for fewer with --top",
        )


def _loss_warning(results: Sequence[CheckpointResult]) -> str | None:
    labels = short_labels([str(result.checkpoint["path"]) for result in results])
    losses = {
        label: result.measures["loss"]["train"].value
        for label, result in zip(labels, results, strict=True)
        if result.status == "ok" and "loss" in result.measures
    }
    return training_loss_warning(losses)
