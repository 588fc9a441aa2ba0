"""Prepare a task for a run: its network and data, shared by measures and explorations."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from sharpcli.curvature import SelfCheck
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.objective.coupling import batch_note, batches_of
from sharpcli.objective.network import Network, give_shapes
from sharpcli.objective.objective import Objective
from sharpcli.objective.parameter_names import matching
from sharpcli.objective.reading import read_rows
from sharpcli.objective.rows import Rows
from sharpcli.runs.described import check_described
from sharpcli.runtime.progress import Begin, silent
from sharpcli.settings import RunSettings
from sharpcli.tasks import Task, load_task, task_from_metadata

__all__ = ["Loaded", "Studies", "Study", "load", "matched", "prepare"]


@dataclass
class Study:
    """A task ready to measure any of its checkpoints: the network, and the data in memory.

    `original` is the task's own model, kept until the network has been compared with it.
    """

    task: Task
    network: Network
    rows: dict[str, Rows]
    run: RunSettings
    checked: SelfCheck | None = None
    original: nn.Module | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def split(self) -> str:
        """The split that checks use: the measured one, or the first if both are measured."""
        return next(iter(self.rows)) if self.run.split == "both" else self.run.split

    @property
    def size(self) -> int:
        """The number of parameters that require a gradient, measured or not."""
        own = self.network.model.parameters()
        trained = [each for each in own if each.requires_grad]
        return sum(each.numel() * (1 + each.is_complex()) for each in trained)

    @functools.cached_property
    def sample(self) -> str:
        """Identifies the measured split's examples and their division in shards."""
        rows = self.rows[self.run.split].digest()
        return hashlib.sha256(f"{rows} {self.run.seed}".encode()).hexdigest()[:16]

    def objectives(self, tensors: Mapping[str, Tensor]) -> dict[str, Objective]:
        """The objective of each split with a checkpoint's buffers."""
        fixed = self.network.fixed(tensors)
        return {
            name: Objective(self.network, rows, fixed, batch_size=self.run.batch_size)
            for name, rows in self.rows.items()
        }

    def description(self) -> dict[str, Any]:
        """The task as in the document."""
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
    """Build a task's model and read its training and (if any) test data.

    Errors of the task's functions pass, as does the `UsageError` for a pattern of `run.parameters`
    that no parameter matches.

    Raises:
        SharpError: the split to measure on has no data.
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


class Studies:
    """The studies of a run, one for each task with its options; most runs have one."""

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
        """The studies so far, in the order of first use."""
        return list(self._made.values())

    def of(self, checkpoint: Checkpoint | None, path: str | Path | None = None) -> Study:
        """The study of the run's task, or of the task in a checkpoint's metadata.

        A `UsageError` (with the checkpoint's `path`, if given) says that neither names a task. A
        `SharpError` says that the metadata describe another model than that of the tensors; nothing
        is allocated before this check. Errors of `load_task` and `prepare` pass.
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
        """The (first) task as in the document."""
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
        """Notes on reading and matching the checkpoint and on the task, one line each."""
        return [*self.checkpoint.notes, *self.match.notes, *self.study.notes]

    def description(self) -> dict[str, Any]:
        """The number of measured parameters (and of all, if they differ), and the notes."""
        study = self.study
        in_all = {"parameters_in_all": study.size} if study.run.parameters else {}
        return {"parameters": study.network.size, **in_all, "notes": self.notes}

    def forget(self) -> None:
        """Free the checkpoint's tensors; θ and the objectives' buffers are copies."""
        self.checkpoint.tensors.clear()
        self.match.tensors.clear()


def load(path: str | Path | Checkpoint, studies: Studies) -> Loaded:
    """Read a checkpoint and match it to its task's model; raises `SharpError` if that fails."""
    checkpoint = path if isinstance(path, Checkpoint) else load_checkpoint(path)
    return matched(
        checkpoint, studies.of(checkpoint, path if isinstance(path, str | Path) else None)
    )


def matched(checkpoint: Checkpoint, study: Study) -> Loaded:
    """Match a checkpoint to a study's model; names and shapes must agree.

    Raises:
        SharpError: a tensor has a NaN or an infinity; the message names the first one.
    """
    found = match_tensors(checkpoint, study.network.model.state_dict())
    bad = first_not_finite(found.tensors)
    if bad is not None:
        raise SharpError(
            f"{checkpoint.path}: the tensor '{bad}' holds NaN or Inf",
            "measure a checkpoint from before the run diverged",
        )
    return Loaded(checkpoint, found, study, study.network.flatten(found.tensors))
