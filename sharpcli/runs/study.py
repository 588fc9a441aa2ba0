"""Prepare a task for a run: its network and data, shared by measures and explorations."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.checkpoint import (
    Checkpoint,
    Match,
    configuration_notes,
    first_not_finite,
    match_tensors,
)
from sharpcli.checkpoint.contents import listed
from sharpcli.checkpoint.own_hooks import loads_itself
from sharpcli.curvature import SelfCheck
from sharpcli.errors import SharpError, setting
from sharpcli.objective.collated import CollatedRows
from sharpcli.objective.coupling import batch_note, batches_of
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.parameter_names import matching
from sharpcli.objective.reading import memory_for_data, read_rows, seen_rows
from sharpcli.objective.rows import Rows, digest_of
from sharpcli.objective.shapes import give_shapes, takes_lengths
from sharpcli.runs.random_parts import random_tensors
from sharpcli.runtime.progress import Begin, silent
from sharpcli.settings.measuring import RunSettings
from sharpcli.tasks import Task
from sharpcli.tasks.float_losses import FloatTargets, float_targets, with_float_loss
from sharpcli.tasks.notes import collected
from sharpcli.tasks.options_in_metadata import (
    InMetadata,
)

__all__ = ["SPLITS", "Loaded", "Study", "matched", "prepare"]


SPLITS = ("train", "test")
# Models that a study keeps of those that their own loading made: of more, those that came last.
_MOST_LOADED = 16


@dataclass
class Study:
    """A task ready to measure any of its checkpoints: the network, and the data in memory.

    `original` is the task's own model, kept until the network has been compared with it;
    `uncoupled` after a checkpoint whose losses were found to be each example's own. `rest` has the
    model's tensors, where checkpoints may hold a part of them, and `built` where code of the
    model's own may read them when it is loaded; `parts` are then the studies of the
    parameters that the checkpoints so far cover. `drawn` has what model() makes at random, of all
    that a checkpoint may lack. `loaded` has the studies of the models that checkpoints' own loading
    made, by the attributes that it changed; this one is among them if some changed none. By
    `targets` the loss was chosen, if the task has none.
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
    built: Mapping[str, Tensor] | None = None
    parts: dict[tuple[str, ...], Study] = field(default_factory=dict)
    drawn: frozenset[str] = frozenset()
    loaded: dict[tuple[tuple[str, Any], ...], Study] = field(default_factory=dict)
    targets: FloatTargets | None = None

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

    def on(self, found: Match) -> Study:
        """The study of a model that its own `load_state_dict` made, with what that code set in it.

        It is the same study if that changed nothing but tensors by name.
        """
        model = found.loaded
        if model is None:
            self.loaded[found.attributes] = self
            return self
        if found.attributes not in self.loaded:
            while len(self.loaded) >= _MOST_LOADED:
                del self.loaded[next(iter(self.loaded))]
            network = _network(model, self.task, self.run, self.network.device)
            if self.run.parameters:
                network = network.subset(matching(network.model, self.run.parameters))
            more = replace(
                self,
                network=network,
                original=model,
                notes=list(self.notes),
                checked=None,
                parts={},
            )
            self.loaded[found.attributes] = more
        return self.loaded[found.attributes]

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
        """A digest of the tensors that model() makes and checkpoints may lack; "" without any.

        These are buffers that are not saved, and all tensors with `partial` and where code of the
        model's own may read them when it is loaded.
        """
        model = self.network.model
        saved = model.state_dict().keys()
        own = {name: each for name, each in model.named_buffers() if name not in saved}
        own |= self.rest or self.built or {}
        return digest_of(dict(sorted(own.items()))) if own else ""

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
    model = task.model()
    rows = {} if like is None else dict(like.rows)
    seen: dict[str, tuple[Iterator[Any], str]] = {}
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
        seen[name] = seen_rows(data, rows[name], task.collate)
        room = max(room - rows[name].bytes, 0)
    if like is None:
        batches = itertools.chain.from_iterable(each for each, _ in seen.values())
        targets = float_targets(task, batches, "; ".join(said for _, said in seen.values() if said))
    else:
        targets = like.targets
    task = with_float_loss(task, targets)
    give_shapes(model, task, next(iter(rows.values())))
    for name, read in rows.items():
        if (
            isinstance(read, CollatedRows)
            and read.only_padded
            and not takes_lengths(model, task, read)
        ):
            rows[name] = read.padded_to_one_length()
    itself = loads_itself(model)
    built = _tensors_of(model) if run.partial or itself else None
    rest = built if run.partial else None
    drawn = random_tensors(task, model, run.seed, partial=run.partial)
    network = _network(model, task, run, device)
    if run.parameters:
        network = network.subset(matching(network.model, run.parameters))
    for name, read in rows.items() if like is None else ():
        rows[name] = read.to(device, network.compute).with_fixed_batch(run.fixed_batch)
    notes = [*batch_note(rows, run.mode), *(note for each in rows.values() for note in each.notes)]
    return Study(
        task,
        network,
        rows,
        run,
        notes=notes,
        original=model,
        rest=rest,
        built=built if itself else None,
        drawn=drawn,
        targets=targets,
    )


def _network(model: nn.Module, task: Task, run: RunSettings, device: torch.device) -> Network:
    return Network(
        model,
        task,
        device=device,
        dtype=torch.float64 if run.dtype == "float64" else torch.float32,
        compute=torch.bfloat16 if run.dtype == "bfloat16" else None,
        mode=run.mode,
        tf32=run.tf32,
    )


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's tensors as it was built, on the CPU."""
    state = model.state_dict()
    return {k: t.detach().to("cpu", copy=True) for k, t in state.items() if isinstance(t, Tensor)}


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
        if self.match.given is not None:
            self.match.given.clear()


def matched(checkpoint: Checkpoint, study: Study, in_metadata: InMetadata | None = None) -> Loaded:
    """Match a checkpoint to a study's model; names and shapes must agree.

    Raises:
        SharpError: a tensor has a NaN or an infinity; the message names the first one. Or an
            adapter's configuration makes another network.
    """
    model = study.network.model
    found = match_tensors(
        checkpoint, model.state_dict(), model=model, rest=study.rest, built=study.built
    )
    said = configuration_notes(checkpoint.path, model)
    covered = found.tensors if found.covered is None else found.covered
    if drawn := sorted(name for name in study.drawn if name not in covered):
        said.append(
            f"{listed(drawn, 3)} not in the file and random in model(): the numbers depend on "
            f"{setting('seed', study.run.seed)}; let model() load or compute what the training had"
        )
    checkpoint = replace(checkpoint, others={}, notes=(*checkpoint.notes, *said))
    study = study.on(found).part(found.covered)
    bad = first_not_finite(found.tensors)
    if bad is not None:
        raise SharpError(
            f"{checkpoint.path}: the tensor '{bad}' holds NaN or Inf",
            "measure a checkpoint from before the run diverged",
        )
    theta = study.network.flatten(found.tensors)
    return Loaded(checkpoint, found, study, theta, in_metadata or InMetadata())
