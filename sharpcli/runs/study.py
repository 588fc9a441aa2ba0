"""Prepare a task for a run: its network and data, shared by measures and explorations."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.checkpoint import (
    Checkpoint,
    Match,
    configuration_notes,
    first_not_finite,
    match_tensors,
    read_checkpoint,
)
from sharpcli.checkpoint.contents import listed
from sharpcli.curvature import SelfCheck
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.objective.collated import CollatedRows
from sharpcli.objective.coupling import batch_note, batches_of
from sharpcli.objective.network import Network, give_shapes, takes_lengths
from sharpcli.objective.objective import Objective
from sharpcli.objective.parameter_names import matching
from sharpcli.objective.reading import memory_for_data, read_rows
from sharpcli.objective.rows import Rows, bytes_hashed
from sharpcli.runs.checkpoint_folder import CheckpointFolders
from sharpcli.runs.described import check_configured, check_described, fitting
from sharpcli.runs.random_parts import random_tensors
from sharpcli.runtime.progress import Begin, silent
from sharpcli.settings import RunSettings
from sharpcli.tasks import Task, open_task, task_from_metadata
from sharpcli.tasks.arguments import declared_options
from sharpcli.tasks.build import build_task
from sharpcli.tasks.float_losses import with_float_loss
from sharpcli.tasks.notes import collected
from sharpcli.tasks.options_in_metadata import (
    InMetadata,
    names_in_metadata,
    options_in_metadata,
)
from sharpcli.tasks.source import Source

__all__ = ["SPLITS", "Loaded", "Studies", "Study", "load", "matched", "prepare"]


SPLITS = ("train", "test")


@dataclass
class Study:
    """A task ready to measure any of its checkpoints: the network, and the data in memory.

    `original` is the task's own model, kept until the network has been compared with it;
    `uncoupled` after a checkpoint whose losses were found to be each example's own. `rest` has the
    model's tensors, where checkpoints may hold a part of them; `parts` are then the studies of the
    parameters that the checkpoints so far cover. `drawn` has what model() makes at random, of all
    that a checkpoint may lack.
    """

    task: Task
    network: Network
    rows: dict[str, Rows]
    run: RunSettings
    checked: SelfCheck | None = None
    original: nn.Module | None = None
    uncoupled: bool = False
    notes: list[str] = field(default_factory=list)
    rest: Mapping[str, Tensor] | None = None
    parts: dict[tuple[str, ...], Study] = field(default_factory=dict)
    drawn: frozenset[str] = frozenset()

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

    def part(self, covered: Collection[str] | None) -> Study:
        """The study in which θ holds only parameters that a checkpoint of a part covers.

        It is the same study if all are covered, or if the run's settings choose the parameters.

        Raises:
            SharpError: the checkpoint covers no parameter that requires a gradient.
        """
        if self.rest is None or self.run.parameters:
            return self
        whole = tuple(self.network.names)
        names = whole if covered is None else tuple(name for name in whole if name in covered)
        if not names:
            raise SharpError(
                f"{self.task.name}: the checkpoint holds none of the parameters that require a "
                "gradient",
                "leave requires_grad on for them in model(), or choose parameters with "
                f"{setting('parameters')}",
            )
        if names == whole:
            self.parts[names] = self
        if names not in self.parts:
            network = self.network.subset(names)
            self.parts[names] = replace(self, network=network, notes=list(self.notes), parts={})
        return self.parts[names]

    @property
    def data_bytes(self) -> int:
        """The bytes of memory that the data take."""
        return sum(rows.bytes for rows in self.rows.values())

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """The digest of each split's rows."""
        return {name: rows.digest() for name, rows in self.rows.items()}

    @functools.cached_property
    def own_tensors(self) -> str:
        """The digest of what no checkpoint has and the task's model() made; "" if there is nothing.

        These are buffers that are not saved, and with `partial` all tensors.
        """
        model = self.network.model
        saved = model.state_dict().keys()
        own = {name: each for name, each in model.named_buffers() if name not in saved}
        found = hashlib.sha256()
        for name, tensor in sorted({**own, **(self.rest or {})}.items()):
            found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            whole = tensor.coalesce() if tensor.is_sparse else None
            for part in [tensor] if whole is None else [whole.indices(), whole.values()]:
                found.update(bytes_hashed(part.resolve_conj().resolve_neg()))
        return found.hexdigest() if own or self.rest else ""

    @functools.cached_property
    def sample(self) -> str:
        """Identifies the measured split's examples and their division in shards."""
        rows = self.digests[self.run.split]
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
    task: Task,
    run: RunSettings,
    device: torch.device,
    *,
    begin: Begin = lambda _: silent,
    memory: int | None = None,
    splits: Collection[str] = SPLITS,
    like: Study | None = None,
) -> Study:
    """Build a task's model and read its training and (if any) test data.

    Data of more than a share of the `memory` (None: of what is free) stay out of it. Only the
    `splits`, and the one to measure on, are read; the data are those of the study `like`, if there
    is one. Errors of the task's functions pass, as does the `UsageError` for a pattern of
    `run.parameters` that no parameter matches. A `SharpError` says that the split to measure on has
    no data.
    """
    notes: list[str] = []
    with collected(notes):
        study = _prepared(task, run, device, begin, memory, splits, like)
    study.notes += notes
    return study


def _prepared(
    task: Task,
    run: RunSettings,
    device: torch.device,
    begin: Begin,
    memory: int | None,
    splits: Collection[str],
    like: Study | None,
) -> Study:
    torch.manual_seed(run.seed)
    dtype = torch.float64 if run.dtype == "float64" else torch.float32
    narrow = torch.bfloat16 if run.dtype == "bfloat16" else None
    model = task.model()
    rows = {} if like is None else dict(like.rows)
    room = memory_for_data(memory)
    for name in SPLITS if like is None else ():
        if name not in splits and run.split not in (name, "both"):
            continue
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
            room=room,
            by_length=run.fixed_batch is None and run.mode == "eval",
        )
        room = max(room - rows[name].bytes, 0)
    task = with_float_loss(task, _batches(rows.values()))
    give_shapes(model, task, next(iter(rows.values())))
    for name, read in rows.items():
        if (
            isinstance(read, CollatedRows)
            and read.only_padded
            and not takes_lengths(model, task, read)
        ):
            rows[name] = read.padded_to_one_length()
    rest = _tensors_of(model) if run.partial else None
    drawn = random_tensors(task, model, run.seed, partial=run.partial)
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
    for name, read in rows.items() if like is None else ():
        rows[name] = read.to(device, network.compute).with_fixed_batch(run.fixed_batch)
    notes = [*batch_note(rows, run.mode), *(note for each in rows.values() for note in each.notes)]
    return Study(task, network, rows, run, notes=notes, original=model, rest=rest, drawn=drawn)


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's tensors as it was built, on the CPU."""
    state = model.state_dict()
    return {k: t.detach().to("cpu", copy=True) for k, t in state.items() if isinstance(t, Tensor)}


# Models that a run keeps: of a sweep over more sizes, those that were used last.
_MOST_STUDIES = 16


def _batches(splits: Iterable[Rows]) -> Iterator[Any]:
    """All of the data by batch."""
    return (batch for rows in splits for batch in rows.split(_LOOKED_AT))


_LOOKED_AT = 1024  # rows of a batch whose targets are looked at


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
            checkpoint, study.network.model.state_dict(), model=study.network.model, rest=study.rest
        )
    except SharpError:
        return False
    return True


def _key(spec: str, options: Mapping[str, str]) -> tuple[str, ...]:
    return spec, *(f"{name}={value}" for name, value in sorted(options.items()))


def _shared(first: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of a mapping that all others have too."""
    return {k: v for k, v in first.items() if all(each.get(k, ...) == v for each in others)}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in its task's terms: the tensors by the model's names, and θ (n,)."""

    checkpoint: Checkpoint
    match: Match
    study: Study
    theta: Tensor
    in_metadata: InMetadata = field(default_factory=InMetadata)

    @property
    def notes(self) -> list[str]:
        """Notes on reading and matching the checkpoint and on the task, one line each."""
        own = self.in_metadata.notes()
        return [*self.checkpoint.notes, *self.match.notes, *own, *self.study.notes]

    def description(self) -> dict[str, Any]:
        """The number of measured parameters (and of all, if they differ), and the notes.

        If options came from its metadata, these too, and which data and loss they chose.
        """
        study, found = self.study, self.in_metadata
        part = study.run.parameters or study.network.size < study.size
        in_all = {"parameters_in_all": study.size} if part else {}
        known = study.task.options
        options = {name: known.get(name, text) for name, text in found.values.items()}
        chosen: dict[str, Any] = {"options": options} if options else {}
        data = [f"{name}={options[name]}" for name in sorted(found.of_data)]
        data += [f"the loss with {name}={options[name]}" for name in sorted(found.of_loss)]
        if data:
            chosen["data"] = ", ".join(data)
        return {"parameters": study.network.size, **in_all, **chosen, "notes": self.notes}

    def forget(self) -> None:
        """Free the checkpoint's tensors; θ and the objectives' buffers are copies."""
        self.checkpoint.tensors.clear()
        self.match.tensors.clear()


def load(path: str | Path | Checkpoint, studies: Studies) -> Loaded:
    """Read a checkpoint and match it to its task's model; raises `SharpError` if that fails."""
    if isinstance(path, Checkpoint):
        return studies.loaded(path)
    return studies.loaded(read_checkpoint(path, studies.weights), path)


def matched(checkpoint: Checkpoint, study: Study, in_metadata: InMetadata | None = None) -> Loaded:
    """Match a checkpoint to a study's model; names and shapes must agree.

    Raises:
        SharpError: a tensor has a NaN or an infinity; the message names the first one. Or an
            adapter's configuration makes another network.
    """
    model = study.network.model
    found = match_tensors(checkpoint, model.state_dict(), model=model, rest=study.rest)
    said = configuration_notes(checkpoint.path, model)
    covered = found.tensors if found.covered is None else found.covered
    if drawn := sorted(name for name in study.drawn if name not in covered):
        said.append(
            f"{listed(drawn, 3)} not in the file and random in model(): the numbers depend on "
            f"{setting('seed', study.run.seed)}; let model() load or compute what the training had"
        )
    checkpoint = replace(checkpoint, others={}, notes=(*checkpoint.notes, *said))
    study = study.part(found.covered)
    bad = first_not_finite(found.tensors)
    if bad is not None:
        raise SharpError(
            f"{checkpoint.path}: the tensor '{bad}' holds NaN or Inf",
            "measure a checkpoint from before the run diverged",
        )
    theta = study.network.flatten(found.tensors)
    return Loaded(checkpoint, found, study, theta, in_metadata or InMetadata())
