"""The studies of a run: which task a checkpoint belongs to, and with which options."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sharpcli.checkpoint import (
    Checkpoint,
    match_tensors,
    read_checkpoint,
)
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.runs.checkpoint_folder import CheckpointFolders
from sharpcli.runs.described import check_configured, check_described, fitting
from sharpcli.runs.study import SPLITS, Loaded, Study, matched, prepare
from sharpcli.runtime.progress import Begin, silent
from sharpcli.settings.measuring import RunSettings
from sharpcli.tasks import Task, open_task, task_from_metadata
from sharpcli.tasks.arguments import declared_options
from sharpcli.tasks.build import build_task
from sharpcli.tasks.options_in_metadata import (
    InMetadata,
    names_in_metadata,
    options_in_metadata,
)
from sharpcli.tasks.source import Source

__all__ = ["Studies", "load"]

# Models that a run keeps: of a sweep over more sizes, those that were used last.
_MOST_STUDIES = 16


class Studies:
    """The studies of a run, one for each task with its options; most runs have one."""

    def __init__(
        self,
        task: str | Path | Task | None,
        options: Mapping[str, str],
        run: RunSettings,
        device: torch.device,
        begin: Begin = lambda _: silent,
        *,
        memory: int | None = None,
        splits: Collection[str] = SPLITS,
    ) -> None:
        self._memory, self._splits = memory, splits
        self._task = str(task) if isinstance(task, Path) else task
        self._options, self._run = dict(options), run
        self._device, self._begin = device, begin
        self._made: dict[tuple[str, ...], Study] = {}
        self._sources: dict[str, Source] = {}
        self._described: dict[tuple[str, ...], dict[str, Any]] = {}
        self._folders = CheckpointFolders()

    @property
    def weights(self) -> str | None:
        """Which weights of a checkpoint are asked for."""
        return self._run.weights

    @property
    def parts(self) -> int:
        """How many parts of one model the checkpoints so far hold."""
        return max((len(study.parts) for study in self._made.values()), default=0)

    @property
    def variants(self) -> list[str]:
        """What one model has differently after it has loaded some of the checkpoints so far."""
        several = (study.loaded for study in self._made.values() if len(study.loaded) > 1)
        return list(dict.fromkeys(name for made in several for each in made for name, _ in each))

    @property
    def described(self) -> list[dict[str, Any]]:
        """The tasks of the checkpoints so far as in a document, in the order of first use."""
        return list(self._described.values())

    def check(self) -> Study | None:
        """Prepare the run's task before any checkpoint is read, so that its errors show at once.

        None if the size of its model, or all that it needs, may be in the checkpoints' metadata.
        """
        if isinstance(self._task, Task) or self._task is None:
            return self.of(None)
        if self._folders.wanted(self._task, self._options):
            build_task(self._source(self._task), self._options)
            return None
        functions = self._source(self._task).functions
        needed = {o.name for o in declared_options(functions) if o.required} - {*self._options}
        if needed & {*names_in_metadata(functions)}:
            return None
        study = self.of(None)
        of_model = {"model": functions["model"]}
        return None if {*names_in_metadata(of_model)} - {*self._options} else study

    def of(self, checkpoint: Checkpoint | None, path: str | Path | None = None) -> Study:
        """The study of the run's task, or of the task in a checkpoint's metadata.

        Options that the user does not set come from the metadata (`options_in_metadata`).

        A `UsageError` (with the checkpoint's `path`, if given) says that neither names a task. A
        `SharpError` says that the metadata describe another model than that of the tensors; nothing
        is allocated before this check. Errors of a task's functions and of `prepare` pass.
        """
        key, _ = self._of(checkpoint, path)
        return self._made[key]

    def loaded(self, checkpoint: Checkpoint, path: str | Path | None = None) -> Loaded:
        """A checkpoint matched to the model of its study; errors are those of `of` and `matched`.

        Raises:
            SharpError: its tensors do not fit; the message names options from its metadata.
        """
        key, found = self._of(checkpoint, path)
        study = self._made[key]
        self._described[key] = study.description()
        for unused in [*self._made.keys() - self._described.keys()]:
            del self._made[unused]
        try:
            return matched(checkpoint, study, found)
        except SharpError as error:
            if not found.values:
                raise
            values = ", ".join(f"{name}={value}" for name, value in found.values.items())
            raise SharpError(
                f"{error.message}; the model has {values} from its metadata", error.hint
            ) from error

    def _of(
        self, checkpoint: Checkpoint | None, path: str | Path | None
    ) -> tuple[tuple[str, ...], InMetadata]:
        """The key of a checkpoint's study, which is made, and the options in its metadata."""
        if isinstance(self._task, Task):
            return self._prepared((self._task.fingerprint,), self._task), InMetadata()
        metadata = checkpoint.metadata if checkpoint else {}
        named = task_from_metadata(metadata) if self._task is None else (self._task, {})
        if named is None:
            raise UsageError(
                f"{'' if path is None else f'{path}: '}no task: a checkpoint has tensors only, the "
                "model, the loss and the data come from a task",
                f"name one with {setting('task')} (a file, package.module:name, or a name from "
                "`sharp tasks`); `sharp init` writes a task file to start from",
            )
        spec, options = named
        source = self._source(spec)
        given = self._folders.options(spec, self._options, checkpoint.path if checkpoint else path)
        if self._task is None:
            task = build_task(source, {**options, **given})
            found = options_in_metadata(source.functions, metadata, given)
            key = _key(spec, {**options, **given})
            if key not in self._made and checkpoint is not None:
                check_described(task, checkpoint)
            return self._prepared(key, task), replace(found, noted=False)
        found = options_in_metadata(source.functions, metadata, given)
        if self._run.partial:
            found = found.without(found.values, "the file holds a part of the model")
        if not found.values or checkpoint is None:
            key = _key(spec, given)
            known = self._made[key].task if key in self._made else None
            try:
                task = known or build_task(source, given)
                if known is None and checkpoint is not None and given is not self._options:
                    check_configured(task, checkpoint)
            except UsageError as error:
                passed_over = "".join(f"; {said}" for said in found.passed_over.values())
                raise UsageError(f"{error.message}{passed_over}", error.hint) from error
            return self._prepared(key, task), found
        key = _key(spec, {**found.values, **given})
        if key in self._made and _fits(checkpoint, self._made[key]):
            return self._prepared(key, self._made[key].task), found
        found, task = fitting(
            lambda values: build_task(source, {**values, **given}), found, checkpoint
        )
        return self._prepared(_key(spec, {**found.values, **given}), task), found

    def _prepared(self, key: tuple[str, ...], task: Task) -> tuple[str, ...]:
        """Make the study of a task, with the data of another one if these are the same."""
        study = self._made.pop(key, None)
        if study is None:
            alike = (
                study
                for (spec, *_), study in self._made.items()
                if spec == key[0] and None is not task.read_with == study.task.read_with
            )
            like = next(alike, None)
            study = prepare(
                task,
                self._run,
                self._device,
                begin=self._begin,
                memory=self._memory,
                splits=self._splits,
                like=like,
            )
            while len(self._made) >= _MOST_STUDIES:
                del self._made[next(iter(self._made))]
        self._made[key] = study  # the last one used is the last one
        return key

    def _source(self, spec: str) -> Source:
        """A task's functions; its code runs once."""
        if spec not in self._sources:
            self._sources[spec] = open_task(spec)
        return self._sources[spec]

    def description(self) -> dict[str, Any]:
        """The task as in the document; of several, what they have in common."""
        every = self.described or [study.description() for study in self._made.values()]
        if every:
            first, *others = every
            return {
                **first,
                "options": _shared(first["options"], [each["options"] for each in others]),
                "fingerprint": None if others else first["fingerprint"],
                "examples": _shared(first["examples"], [each["examples"] for each in others]),
            }
        name = self._task.name if isinstance(self._task, Task) else self._task
        return {"name": name, "options": {}, "fingerprint": None, "examples": {}}


def _fits(checkpoint: Checkpoint, study: Study) -> bool:
    """Whether a checkpoint's tensors are those of a study's model."""
    try:
        match_tensors(
            checkpoint,
            study.network.model.state_dict(),
            model=study.network.model,
            rest=study.rest,
            built=study.built,
        )
    except SharpError:
        return False
    return True


def _key(spec: str, options: Mapping[str, str]) -> tuple[str, ...]:
    return spec, *(f"{name}={value}" for name, value in sorted(options.items()))


def _shared(first: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of a mapping that all others have too."""
    return {k: v for k, v in first.items() if all(each.get(k, ...) == v for each in others)}


def load(path: str | Path | Checkpoint, studies: Studies) -> Loaded:
    """Read a checkpoint and match it to its task's model; raises `SharpError` if that fails."""
    if isinstance(path, Checkpoint):
        return studies.loaded(path)
    return studies.loaded(read_checkpoint(path, studies.weights), path)
