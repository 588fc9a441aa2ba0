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
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.rows import Rows
from sharpcli.runs.callbacks.losses import own_loss
from sharpcli.runs.callbacks.losses import predict as without_labels
from sharpcli.runs.callbacks.sample import Sizes, read_sample, searched_part, sizes_for, work_of
from sharpcli.tasks import Task, defaults
from sharpcli.tasks.loaders import map_style

__all__ = ["Subject", "plain_model"]

_FEW = 4  # examples on which the model's own loss is recognised, and its terms are counted
_TIMED = 32  # examples whose gradient is timed


class Subject:
    """The network, the rows of its sample, and what a measurement of them takes.

    `notes` say how the data were read. Arguments are those of `Monitor`; `samples` None: `grow`
    chooses.
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
        self._device = torch.device("cpu") if first is None else first.device
        self.network = Network(model, task, device=self._device, dtype=self._kind)
        tensors = model.state_dict()
        few = self._read(_FEW)
        if loss is None and predict is None:
            self.network = self.network.with_loss(_own_loss(self.network, few.batch, tensors))
        self._sizes = self._sizes_of(few, tensors)
        started = time.perf_counter()
        self.rows = self._read(samples or self._sizes.fewest)
        self._reading = (time.perf_counter() - started) / self.rows.count
        self._gradient = self._check(tensors)

    @property
    def searched(self) -> Tensor:
        """The rows in which an eigenvector is searched."""
        return searched_part(self.rows, self._seed)

    @property
    def expected(self) -> float:
        """Seconds that λ1 takes, about."""
        return work_of(self.rows.count) * self._gradient

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
        return rows.to(self._device, self._kind)

    def _objective(self, rows: Rows, tensors: Mapping[str, Tensor]) -> Objective:
        return Objective(self.network, rows, self.network.fixed(tensors), batch_size=256)

    def _sizes_of(self, few: Rows, tensors: Mapping[str, Tensor]) -> Sizes:
        objective = self._objective(few, tensors)
        with torch.no_grad():
            parameters = self.network.unflatten(self.network.flatten(tensors))
            _, weight = objective.sum_and_weight(parameters, few.batch, few.count)
        return sizes_for(max(float(weight) / few.count, 1.0), few.total)

    def _check(self, tensors: Mapping[str, Tensor]) -> float:
        """Check that the loss is a mean over examples; returns the seconds of one's gradient."""
        theta = self.network.flatten(tensors)
        objective = self._objective(self.rows, tensors)
        check_deterministic(objective, theta)
        check_coupling({"train": objective}, theta, seed=self._seed)
        timed = self._objective(self.rows.head(_TIMED), tensors)
        timed.gradient(theta)  # the first one sets up what the others use
        started = time.perf_counter()
        timed.gradient(theta)
        return (time.perf_counter() - started) / timed.rows.count


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
    with torch.no_grad():
        watched.outputs(parameters, network.fixed(tensors), batch)
    return found[-1]
