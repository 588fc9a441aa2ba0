"""A task and a run's settings made ready: what measures and explorations of checkpoints share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.checkpoint import (
    Checkpoint,
    Match,
    first_not_finite,
    load_checkpoint,
    match_tensors,
)
from sharpcli.curvature import SelfCheck, in_float64, self_check, unvouched_operations
from sharpcli.documents.results import Failure
from sharpcli.errors import SharpError, UsageError, counted, setting
from sharpcli.objective.checks import check_deterministic
from sharpcli.objective.coupling import batch_note, batches_of, check_coupling, coupling_named
from sharpcli.objective.fidelity import check_fidelity, check_reach
from sharpcli.objective.network import CallWatch, Network, give_shapes
from sharpcli.objective.objective import Objective
from sharpcli.objective.parameter_names import matching
from sharpcli.objective.rows import Rows, read_rows
from sharpcli.runs.described import check_described
from sharpcli.runtime.memory import is_out_of_memory
from sharpcli.runtime.processes import join
from sharpcli.runtime.progress import Begin, silent
from sharpcli.settings import CurvatureSettings, RunSettings
from sharpcli.tasks import Task, load_task, task_from_metadata

__all__ = [
    "Loaded",
    "Studies",
    "Study",
    "check_block",
    "check_curvature",
    "load",
    "matched",
    "note_calls",
    "prepare",
    "ready",
    "resolve_device",
    "said_by_torch",
]

# Examples on which second derivatives are checked in float64, from all over the data: enough that
# every layer sees some. Where operations are used for which PyTorch does not vouch, a fault may
# show on any example, and as many are looked at as cost a tenth of finding eigenvalues.
_EXAMPLES, _MOST_EXAMPLES = 32, 4096
# Up to so many examples a second direction is affordable.
_TWICE = 512
# Examples of a forward pass that shows what the model and the loss call for.
_WATCHED_EXAMPLES = 16
_NO_FLOAT64 = (
    "second derivatives were checked in float32 only, in which the model runs: gross faults show"
)
_NEARBY = (
    "second derivatives were checked beside this point, not at it: there differences of gradients "
    "change with their step or side, since the gradient jumps (a ReLU at exactly 0, where "
    "PyTorch's convention holds) or is rounding"
)
_ATTENTION_NOTE = (
    "attention is computed by PyTorch's math kernel: its fused ones have no second derivative"
)
_WEIGHTS_NOTE = (
    "loss() weighs classes, and the objective is the mean of its values over the examples; "
    "nn.CrossEntropyLoss(weight=w) divides by the sum of the weights instead: for that let loss() "
    "return the pair (losses, w[targets])"
)


@dataclass
class Study:
    """A task made ready to measure any of its checkpoints: the network, and its data in memory.

    `original` is the model that the task gave, until the network has been held against it.
    """

    task: Task
    network: Network
    rows: dict[str, Rows]
    run: RunSettings
    checked: SelfCheck | None = None
    original: nn.Module | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many parameters require a gradient, measured or not."""
        own = self.network.model.parameters()
        trained = [each for each in own if each.requires_grad]
        return sum(each.numel() * (1 + each.is_complex()) for each in trained)

    def objectives(self, tensors: Mapping[str, Tensor]) -> dict[str, Objective]:
        """The objective of each split with a checkpoint's buffers."""
        fixed = self.network.fixed(tensors)
        return {
            name: Objective(self.network, rows, fixed, batch_size=self.run.batch_size)
            for name, rows in self.rows.items()
        }

    def description(self) -> dict[str, Any]:
        """The task as the document has it."""
        return {
            "name": self.task.name,
            "options": dict(self.task.options),
            "fingerprint": self.task.fingerprint,
            "examples": {name: rows.count for name, rows in self.rows.items()},
            **batches_of(self.rows, self.run.mode),
        }


def prepare(
    task: Task, run: RunSettings, device: torch.device, *, begin: Begin = lambda _: silent
) -> Study:
    """Build a task's model and read its data, train and (where there is one) test.

    Raises `SharpError` where the task's functions fail, where data are empty or random, and where
    there are no test data although they are what is to be measured on; `UsageError` for a pattern
    of `run.parameters` that no parameter matches.
    """
    torch.manual_seed(run.seed)
    dtype = torch.float64 if run.dtype == "float64" else torch.float32
    narrow = torch.bfloat16 if run.dtype == "bfloat16" else None
    model = task.model()
    rows = {}
    for name in ("train", "test"):
        data = task.data(name)
        if data is None and name == run.split:
            raise SharpError(
                f"{task.name}: data('{name}') gives None: there are no {name} data to measure on",
                f"leave {setting('split')} out, which measures on the training data",
            )
        if data is None:
            continue
        rows[name] = read_rows(
            data,
            name=f"{name} data of {task.name}",
            samples=run.samples if run.split in (name, "both") else None,
            seed=run.seed,
            collate=task.collate,
            progress=begin(f"reading the {name} data"),
        )
    give_shapes(model, task, rows["train"] if "train" in rows else rows["test"])
    network = Network(
        model,
        task,
        device=device,
        dtype=dtype,
        compute=narrow,
        mode=run.mode,
        tf32=run.tf32,
    )
    if run.parameters:
        network = network.subset(matching(network.model, run.parameters))
    for name, read in rows.items():
        rows[name] = read.to(device, network.compute).with_fixed_batch(run.fixed_batch)
    notes = batch_note(rows, run.mode)
    return Study(task, network, rows, run, notes=notes, original=model)


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first GPU, else the CPU. Raises `UsageError`.

    Under torchrun it meets the other processes, and each has a GPU of its own.
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(auto if name == "auto" else name)
    except RuntimeError as error:  # a name that torch does not know, or a number too large for it
        raise UsageError(
            f"{setting('device', name)}: {str(error).splitlines()[0]}",
            "use auto, cpu, cuda, cuda:1 or mps",
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(
                f"{setting('device', name)}: this PyTorch ({torch.__version__}) sees "
                f"{counted(count, 'CUDA device')}",
                f"use {setting('device', 'cpu')}, or install a CUDA build of PyTorch and check the "
                "driver",
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(
            f"{setting('device', name)}: there is no MPS device", f"use {setting('device', 'cpu')}"
        )
    return join(device)


class Studies:
    """The studies of a run, one a task and its options; most runs have one."""

    def __init__(
        self,
        task: str | Path | Task | None,
        options: Mapping[str, str],
        run: RunSettings,
        device: torch.device,
        begin: Begin = lambda _: silent,
    ) -> None:
        self._task = str(task) if isinstance(task, Path) else task
        self._options, self._run = dict(options), run
        self._device, self._begin = device, begin
        self._made: dict[tuple[str, ...], Study] = {}

    @property
    def made(self) -> list[Study]:
        """The studies so far, in the order in which they were needed."""
        return list(self._made.values())

    def of(self, checkpoint: Checkpoint | None, path: str | Path | None = None) -> Study:
        """The study of the task that was asked for, or that a checkpoint's metadata name.

        Raises `UsageError`, naming the checkpoint's `path` if given, where neither names one, and
        what `load_task` and `prepare` raise. Raises `SharpError` where the metadata describe
        another model than the checkpoint's tensors are of; nothing is allocated before.
        """
        task, options = self._asked_for(checkpoint.metadata if checkpoint else {}, path)
        if isinstance(task, Task):
            key: tuple[str, ...] = (task.fingerprint,)
        else:
            key = (task, *(f"{name}={value}" for name, value in sorted(options.items())))
        if key not in self._made:
            ready = task if isinstance(task, Task) else load_task(task, options)
            if self._task is None and checkpoint is not None:
                check_described(ready, checkpoint)
            self._made[key] = prepare(ready, self._run, self._device, begin=self._begin)
        return self._made[key]

    def description(self) -> dict[str, Any]:
        """The (first) task as the document has it."""
        for study in self._made.values():
            return study.description()
        name = self._task.name if isinstance(self._task, Task) else self._task
        return {"name": name, "options": {}, "fingerprint": None, "examples": {}}

    def _asked_for(
        self, metadata: Mapping[str, Any], path: str | Path | None
    ) -> tuple[str | Task, Mapping[str, str]]:
        if self._task is not None:
            return self._task, self._options
        named = task_from_metadata(metadata)
        if named is None:
            raise UsageError(
                f"{'' if path is None else f'{path}: '}no task: a checkpoint has tensors only, the "
                "model, the loss and the data come from a task",
                f"name one with {setting('task')} (a file, package.module:name, or a name from "
                "`sharp tasks`); `sharp init` writes a task file to start from",
            )
        return named[0], {**named[1], **self._options}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in its task's terms: the tensors by the model's names, and θ (n,)."""

    checkpoint: Checkpoint
    match: Match
    study: Study
    theta: Tensor

    @property
    def notes(self) -> list[str]:
        """What was undone to read the checkpoint and to match it, one line each."""
        return [*self.checkpoint.notes, *self.match.notes, *self.study.notes]

    def description(self) -> dict[str, Any]:
        """How many parameters are measured, of how many where not all are, and the notes."""
        study = self.study
        in_all = {"parameters_in_all": study.size} if study.run.parameters else {}
        return {"parameters": study.network.size, **in_all, "notes": self.notes}

    def forget(self) -> None:
        """Let go of the checkpoint's tensors, of which θ and an objective's buffers are copies."""
        self.checkpoint.tensors.clear()
        self.match.tensors.clear()


def load(path: str | Path, studies: Studies) -> Loaded:
    """Read a checkpoint and match it to its task's model; raises `SharpError` where it fails."""
    checkpoint = load_checkpoint(path)
    return matched(checkpoint, studies.of(checkpoint, path))


def matched(checkpoint: Checkpoint, study: Study) -> Loaded:
    """Match a checkpoint to a study's model.

    Raises `SharpError` where keys or shapes differ, and naming the first tensor with NaN or Inf.
    """
    found = match_tensors(checkpoint, study.network.model.state_dict())
    bad = first_not_finite(found.tensors)
    if bad is not None:
        raise SharpError(
            f"{checkpoint.path}: the tensor '{bad}' holds NaN or Inf",
            "measure a checkpoint from before the run diverged",
        )
    return Loaded(checkpoint, found, study, study.network.flatten(found.tensors))


def ready(
    loaded: Loaded,
    curvature: CurvatureSettings,
    warnings: list[str],
    *,
    check: bool = True,
    gradients: bool = True,
) -> dict[str, Objective]:
    """The objective of each split with a checkpoint's buffers, found fit to be measured.

    With `gradients` the model's first derivatives are looked at too, once for a study, and with
    `check` the second ones at each checkpoint. The checkpoint's tensors are let go of. Raises
    `SharpError` where two evaluations differ, and where the network is not the task's model.
    """
    study = loaded.study
    objectives = study.objectives(loaded.match.tensors)
    for objective in objectives.values():
        objective.memory = curvature.memory
    measured = objectives[study.run.split]
    with coupling_named(measured, loaded.theta):
        check_reach(study, loaded.match.tensors)
        check_deterministic(measured, loaded.theta)
    check_coupling(objectives, loaded.theta, seed=study.run.seed)
    note_calls(study, loaded.match.tensors, second_derivatives=check)
    check_fidelity(study, loaded.match.tensors, warnings, gradients=gradients)
    if check:
        study.checked = check_curvature(study, loaded.match.tensors, warnings, curvature)
    loaded.forget()
    return objectives


def said_by_torch(error: RuntimeError) -> Failure | None:
    """What an exception of torch's says about the task or the machine, None where it is a bug."""
    text = str(error).splitlines()[0] if str(error) else ""
    if is_out_of_memory(error):
        return Failure(f"out of memory: {text}", f"use {setting('samples')}")
    if "modified by an inplace operation" in text:  # a plain RuntimeError of torch's
        return Failure(
            f"the loss cannot be differentiated: {text.partition(':')[0]}",
            "replace the model's in-place operations (x += y, inplace=True) by others",
        )
    return None


def check_curvature(
    study: Study,
    tensors: Mapping[str, Tensor],
    warnings: list[str],
    curvature: CurvatureSettings | None = None,
) -> SelfCheck | None:
    """Check the derivatives that products are made of in float64 on a few examples.

    Where the model has operations for which PyTorch does not vouch, thousands of examples are
    looked at. Cost: one gradient on 4,000 examples of an MLP with PyTorch's own operations, else
    about 10.
    """
    network, curvature = study.network, curvature or CurvatureSettings()
    if network.device.type == "mps":
        warnings.append("second derivatives were not checked: this device has no float64")
        return None
    split = "train" if study.run.split == "both" else study.run.split
    theta, fixed = network.flatten(tensors), network.fixed(tensors)
    # Alone: every process has to see what any row uses.
    whole = Objective(
        network, study.rows[split], fixed, batch_size=study.run.batch_size, alone=True
    )
    whole.memory = curvature.memory
    try:
        unvouched = unvouched_operations(whole, theta)
        return _checked(whole, theta, unvouched, curvature, study.run.seed, warnings)
    except SharpError as error:
        warnings.append(f"second derivatives were not checked in float64: {error.message}")
        return None


def check_block(
    whole: SelfCheck,
    objective: Objective,
    theta: Tensor,
    curvature: CurvatureSettings,
    seed: int,
    warnings: list[str],
) -> SelfCheck:
    """Check a block of the parameters of a model that was checked before, along the block alone.

    Differences in a block whose curvature is small are lost in those of all parameters.
    """
    checked = _checked(objective, theta, whole.unvouched, curvature, seed, warnings)
    return replace(checked, convex=whole.convex)


def _checked(
    objective: Objective,
    theta: Tensor,
    unvouched: Sequence[str],
    curvature: CurvatureSettings,
    seed: int,
    warnings: list[str],
) -> SelfCheck:
    """Check an objective on a few of its rows, on thousands where operations are unvouched for."""
    rows = _spread_rows(objective.rows, _MOST_EXAMPLES if unvouched else _EXAMPLES, seed)
    double, theta = in_float64(objective, theta, rows)
    if theta.dtype != torch.float64:
        warnings.append(_NO_FLOAT64)
    checked = self_check(
        double,
        theta,
        operator=curvature.operator,
        mode=curvature.hvp,
        seed=seed,
        directions=2 if rows.count <= _TWICE else 1,
        beside=not unvouched,  # which a branch may use at θ alone
    )
    if checked.nearby:
        warnings.append(_NEARBY)
    return replace(checked, unvouched=tuple(unvouched))


def _spread_rows(rows: Rows, count: int, seed: int) -> Rows:
    """A random row from each of `count` stretches of equal length: data may be sorted."""
    if count >= rows.count:
        return rows
    generator = torch.Generator().manual_seed(seed)
    edges = torch.linspace(0, rows.count, count + 1, dtype=torch.float64)
    places = edges[:-1] + torch.rand(count, generator=generator, dtype=torch.float64) * edges.diff()
    return rows.take(places.long())


def note_calls(
    study: Study, tensors: Mapping[str, Tensor], *, second_derivatives: bool = False
) -> None:
    """Note in the study what the model and the loss call for that changes what a number means.

    That is class weights, and fused attention where `second_derivatives` are taken. Cost: a forward
    pass on 16 rows.
    """
    network = study.network
    split = "train" if study.run.split == "both" else study.run.split
    rows = study.rows[split].head(_WATCHED_EXAMPLES)
    objective = Objective(network, rows, network.fixed(tensors), batch_size=rows.count)
    parameters = network.unflatten(network.flatten(tensors))
    with torch.no_grad(), CallWatch() as watch:
        _, weight = objective.sum_and_weight(parameters, rows.batch, rows.count)
    notes = [_ATTENTION_NOTE] if watch.attention and second_derivatives else []
    if watch.class_weights and float(weight) == rows.count:
        notes.append(_WEIGHTS_NOTE)
    study.notes += [note for note in notes if note not in study.notes]
