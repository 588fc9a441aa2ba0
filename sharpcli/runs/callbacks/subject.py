"""What is measured during a training: the model as a function, its loss, and a sample of rows."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sharpcli.errors import UsageError
from sharpcli.objective.checks import check_deterministic
from sharpcli.objective.coupling import check_coupling
from sharpcli.objective.fidelity import check_leaves
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.rows import Rows
from sharpcli.runs.callbacks.losses import has_labels, own_loss
from sharpcli.runs.callbacks.losses import predict as without_labels
from sharpcli.runs.callbacks.sample import (
    checks_of,
    read_sample,
    searched_part,
    sizes_for,
    work_of,
)
from sharpcli.runs.tracking import terms_of
from sharpcli.tasks import Task, defaults
from sharpcli.tasks.loaders import map_style

__all__ = ["Subject", "plain_model"]

_FEW = 4  # examples on which the model's own loss is recognised, and its terms are counted
# A gradient is timed on twice as many examples each time, up to the first number, and up to the
# second while an example takes less than this share of its time among half as many: on small
# networks calling takes longer than computing.
_TIMED, _MOST_TIMED, _FASTER = 32, 256, 0.8


# A step of setting up: what it does, and about how many seconds it takes.
_Step = tuple[Callable[[Mapping[str, Tensor]], None], Callable[[], float]]


class Subject:
    """The network, the rows of its sample, and what a measurement of them takes.

    A few rows show at once whether the loss can be measured. The rest is set up in steps: while
    `ahead` is above zero, `advance` takes about so many seconds. Then `rows` are the sample.

    `notes` say how the data were read. Arguments are those of `Monitor`; `samples` None: `grow`
    chooses.

    Raises:
        SharpError: the data or the loss are none that can be measured.

    Cost: some twenty forward passes over four rows.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Any,
        *,
        samples: int | None,
        seed: int,
        data: Any,
        collate: Callable[[list[Any]], Any] | None,
        loss: Callable[[Any, Any], Any] | None,
        predict: Callable[[nn.Module, Any], Any] | None,
    ) -> None:
        self.notes: list[str] = []
        self._data, own = map_style(_source(loader, data), "data", self.notes, collate)
        self._collate, self._seed, self._samples = collate or own, seed, samples
        name = type(model).__name__
        task = Task(
            name=name,
            options={},
            fingerprint="",
            model=lambda: model,
            data=lambda _: None,
            predict=predict or without_labels,
            loss=loss or defaults.loss_for(name),
            metrics=defaults.metrics,
        )
        first = next((each for each in model.parameters() if each.requires_grad), None)
        wide = first is not None and first.dtype == torch.float64
        self._kind = torch.float64 if wide else torch.float32
        self.device = torch.device("cpu") if first is None else first.device
        self.network = Network(model, task, device=self.device, dtype=self._kind)
        self._model, tensors = model, model.state_dict()
        started = time.perf_counter()
        self.rows = self._read(_FEW)
        self._reading = (time.perf_counter() - started) / self.rows.count
        # The first pass has to run the model: it finds the parameters that are not read from their
        # modules, as in a compiled forward().
        if loss is None and predict is None and has_labels(self.rows.batch):
            recognised = _own_loss(self.network, self.rows.batch, tensors)
            self.network = self.network.with_loss(recognised)
        check_leaves(self.network, model, tensors, self.rows)
        theta = self.network.flatten(tensors)
        few = self._objective(self.rows, tensors)
        self._sizes = sizes_for(terms_of(few, theta), self.rows.total)
        check_coupling({"train": few}, theta, seed=seed, again=True)
        started = time.perf_counter()
        terms_of(few, theta)
        # A gradient takes three forward passes or less.
        self._gradient = 3 * (time.perf_counter() - started) / self.rows.count
        self._timed = self.rows.count // 2  # examples
        self._steps: list[_Step] = [
            self._reading_of(min(_TIMED, self._first)),  # a few rows do not show what one takes
            self._reading_of(self._first),
            self._timing,
            (self._check, lambda: checks_of(self._first) * self._gradient),
        ]

    @property
    def _first(self) -> int:
        """The examples of the first sample."""
        return min(self._samples or self._sizes.fewest, self.rows.total)

    @property
    def ready(self) -> bool:
        """Whether all is set up."""
        return not self._steps

    @property
    def last(self) -> bool:
        """Whether one step of setting up is left."""
        return len(self._steps) == 1

    @property
    def ahead(self) -> float:
        """Seconds that the next step of setting up takes, about; 0 if all is set up."""
        if self.ready:
            return 0.0
        _, seconds = self._steps[0]
        return seconds()

    def advance(self) -> None:
        """Take the next step of setting up; raises `SharpError` as the first ones did."""
        step, _ = self._steps.pop(0)
        step(self._model.state_dict())

    @property
    def searched(self) -> Tensor:
        """The rows in which an eigenvector is searched."""
        return searched_part(self.rows, self._seed)

    @property
    def expected(self) -> float:
        """Seconds that λ1 takes, about."""
        return work_of(max(self.rows.count, self._first)) * self._gradient

    def grow(self, seconds: float) -> None:
        """Read as many rows as λ1 can be found of in so many seconds, unless a number is given."""
        if self._samples is None:
            wanted = self._sizes.fitting(seconds, self._gradient, self._reading)
            if wanted > self.rows.count:
                self.rows = self._read(wanted)

    def _read(self, samples: int) -> Rows:
        rows = read_sample(
            self._data, self._collate, samples=samples, seed=self._seed, notes=self.notes
        )
        self.notes = list(dict.fromkeys(self.notes))
        return rows.to(self.device, self._kind)

    def _objective(self, rows: Rows, tensors: Mapping[str, Tensor]) -> Objective:
        return Objective(self.network, rows, self.network.fixed(tensors), batch_size=256)

    def _reading_of(self, count: int) -> _Step:
        """The step that reads so many rows."""

        def read(_: Mapping[str, Tensor]) -> None:
            started = time.perf_counter()
            self.rows = self._read(count)
            self._reading = (time.perf_counter() - started) / self.rows.count

        return read, lambda: count * self._reading

    @property
    def _timing(self) -> _Step:
        """The step that times a gradient of twice as many examples as the last one, or of all."""
        return self._time_gradient, lambda: 2 * self._timed * self._gradient

    def _time_gradient(self, tensors: Mapping[str, Tensor]) -> None:
        rows = self.rows.head(2 * self._timed)
        started = time.perf_counter()
        self._objective(rows, tensors).gradient(self.network.flatten(tensors))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        taken, before = (time.perf_counter() - started) / rows.count, self._gradient
        self._timed, self._gradient = rows.count, taken
        enough = rows.count >= _TIMED and taken > _FASTER * before
        if rows.count < min(self.rows.count, _MOST_TIMED) and not enough:
            self._steps.insert(0, self._timing)

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        """Check that the loss of the first sample is a mean over examples."""
        theta = self.network.flatten(tensors)
        objective = self._objective(self.rows, tensors)
        check_deterministic(objective, theta)
        check_coupling({"train": objective}, theta, seed=self._seed)


def plain_model(model: nn.Module) -> nn.Module:
    """The model without what compilation and mixed precision wrap around it."""
    model = getattr(model, "_orig_mod", model)
    if "_original_forward" in vars(model):  # accelerate's autocast
        model = copy.copy(model)
        for name in ("forward", "_original_forward"):
            vars(model).pop(name)
    return model


def _source(loader: Any, data: Any) -> Any:
    if data is not None:
        return data
    if not isinstance(loader, DataLoader):
        raise UsageError(
            f"sharpness during a training: its data come from a {type(loader).__name__}",
            "give the training data as data=",
        )
    return loader


def _own_loss(network: Network, batch: Any, tensors: Mapping[str, Any]) -> Any:
    """The loss that the model computes itself, recognised on a few examples."""
    found: list[Any] = []

    def look(model: nn.Module, batch: Any) -> Any:
        found.append(own_loss(model, batch, network.task.name))
        return found[-1]

    watched = copy.copy(network)
    watched.task = dataclasses.replace(network.task, predict=look)
    parameters = network.unflatten(network.flatten(tensors))
    with torch.no_grad(), network.arithmetic():
        watched.outputs(parameters, network.fixed(tensors), batch)
    return found[-1]
