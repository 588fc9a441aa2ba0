"""Measures of a model that somebody else trains, on a fixed sample, within a budget of time."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from sharpcli.documents.results import flat_scalars
from sharpcli.documents.stability import PRECONDITIONED_NAME
from sharpcli.errors import SharpError, UsageError, counted
from sharpcli.integrations.budget import Budget
from sharpcli.integrations.losses import own_loss, predict
from sharpcli.integrations.sample import (
    read_sample,
    searched_part,
    size_of_sample,
)
from sharpcli.objective.checks import check_deterministic
from sharpcli.objective.coupling import check_coupling
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.runs.in_memory import map_style
from sharpcli.runtime.processes import size as processes
from sharpcli.runtime.progress import readable_time
from sharpcli.runtime.randomness import global_random_state_kept
from sharpcli.tasks import Task, defaults
from sharpcli.training.tracking import Tracker
from sharpcli.training.train_settings import TrainSettings
from sharpcli.training.watchers import Moment

__all__ = ["Monitor"]

_log = logging.getLogger("sharpcli")
_FEW = 4  # examples on which the model's own loss is recognised
# What a measurement takes, in gradients of the examples in which a vector is searched, until one
# was measured; the first one also checks second derivatives.
_FIRST = 15


class Monitor:
    """Takes measures every so many steps of a training that it does not change.

    Weights, optimizer state, gradients, mode flags and the global random states stay as they are,
    bit for bit. The measures are those of the loss on a fixed sample of the training data, in
    evaluation mode and in float32 (float64 where the model is).

    Args:
        measures: names of measures; "hessian" is λ1 alone.
        every: steps between two measurements.
        share: of the training's time that measuring may take. A measurement that would take more
            waits until a later multiple of `every`; None: no limit.
        seconds: for the whole training; None: no limit.
        samples: examples; None: as many as λ1 can be found of in the share, by counts.
        tolerance: of λ1, as a share of it.
        data: a data set or loader, in place of that of the training.
        collate: makes a batch of a list of rows, in place of the loader's.
        loss: returns one loss for each example of (outputs, batch); by default the loss that the
            model computes itself, or cross-entropy.
        predict: returns the outputs of (model, batch).
        seed: of the sample and of random starts.
        prefix: of the names that are logged.
    """

    def __init__(
        self,
        measures: str | Sequence[str] = ("hessian",),
        *,
        every: int = 200,
        share: float | None = 0.1,
        seconds: float | None = None,
        samples: int | None = None,
        tolerance: float = 0.1,
        data: Any = None,
        collate: Callable[[list[Any]], Any] | None = None,
        loss: Callable[[Any, Any], Any] | None = None,
        predict: Callable[[nn.Module, Any], Any] | None = None,
        seed: int = 0,
        prefix: str = "sharpness/",
    ) -> None:
        names = (measures,) if isinstance(measures, str) else tuple(measures)
        self._settings = TrainSettings(
            "adam" if PRECONDITIONED_NAME in names else "sgd",
            track=names,
            every=every,
            track_samples=samples,
            track_tol=tolerance,
            seed=seed,
        )
        self.every, self._share, self._seconds = every, share, seconds
        self._data, self._collate = data, collate
        self._loss, self._predict, self._prefix = loss, predict, prefix
        self._budget = Budget(share, seconds)
        self._tracker: Tracker | None = None
        self._expected = 0.0
        self._waited = False

    @property
    def spent(self) -> float:
        """Seconds that measuring has taken."""
        return self._budget.spent

    def begin(self, model: nn.Module, loader: Any, batch: int) -> None:
        """Draw the sample and check that the model can be measured; the budget begins now.

        Args:
            model: as it trains.
            loader: the training's own.
            batch: examples in a step.

        Raises:
            UsageError: the data or the processes do not allow it.

        A `SharpError` says that the loss is none that can be measured.
        """
        self._budget = Budget(self._share, self._seconds)
        self._waited = False
        if processes() > 1:
            raise UsageError(
                f"sharpness during a training: it runs on {processes()} processes",
                "measure its checkpoints instead: sharpcli.measure_checkpoints",
            )
        with self._budget.spending(), global_random_state_kept(), torch.enable_grad():
            self._prepare(_plain(model), loader, batch)

    def _prepare(self, model: nn.Module, loader: Any, batch: int) -> None:
        notes: list[str] = []
        data, own = map_style(self._source(loader), "data", notes)
        collate = self._collate or own
        seed, name = self._settings.seed, type(model).__name__
        samples = self._settings.track_samples or size_of_sample(self._share, self.every, batch)
        rows = read_sample(data, collate, samples=samples, seed=seed, notes=notes)
        task = Task(
            name=name,
            options={},
            fingerprint="",
            model=lambda: model,
            data=lambda _: None,
            predict=self._predict or predict,
            loss=self._loss or defaults.loss_for(name),
            metrics=defaults.metrics,
        )
        first = next(each for each in model.parameters() if each.requires_grad)
        kind = torch.float64 if first.dtype == torch.float64 else torch.float32
        network = Network(model, task, device=first.device, dtype=kind)
        rows = rows.to(first.device, kind)
        tensors = model.state_dict()
        if self._loss is None and self._predict is None:
            network = network.with_loss(self._own_loss(network, rows.head(_FEW).batch, tensors))
        theta = network.flatten(tensors)
        objective = Objective(network, rows, network.fixed(tensors), batch_size=min(rows.count, 64))
        check_deterministic(objective, theta)
        check_coupling({"train": objective}, theta, seed=seed)
        self._network, self._rows = network, rows
        searched = searched_part(rows.count, seed)
        self._tracker = Tracker(self._settings, (rows, searched))
        started = time.perf_counter()
        objective.gradient(theta)
        gradient = (time.perf_counter() - started) * len(searched) / rows.count
        self._expected = gradient * (_FIRST + rows.count / len(searched))
        _log.info(
            "sharpness: %s of %s training examples, every %d steps%s",
            f"{rows.count:,}",
            f"{rows.total:,}",
            self.every,
            "".join(f"; {note}" for note in notes),
        )

    def _source(self, loader: Any) -> Any:
        if self._data is not None:
            return self._data
        if not isinstance(loader, DataLoader):
            raise UsageError(
                f"sharpness during a training: its data come from a {type(loader).__name__}",
                "give the training data as data=",
            )
        return loader

    def _own_loss(self, network: Network, batch: Any, tensors: Mapping[str, Any]) -> Any:
        """The loss that the model computes itself, recognised on a few examples."""
        parameters = network.unflatten(network.flatten(tensors))
        found: list[Any] = []

        def look(model: nn.Module, batch: Any) -> Any:
            found.append(own_loss(model, batch, network.task.name))
            return found[0]

        watched = copy.copy(network)
        watched.task = _with_predict(network.task, look)
        with torch.no_grad():
            watched.outputs(parameters, network.fixed(tensors), batch)
        return found[-1]

    def due(self, step: int) -> bool:
        """Whether to measure after so many steps."""
        if self._tracker is None or step == 0 or step % self.every:
            return False
        if self._budget.allows(self._expected):
            return True
        if not self._waited:
            self._waited = True
            _log.warning(self._too_dear())
        return False

    def _too_dear(self) -> str:
        taken = f"sharpness: measuring takes about {readable_time(self._expected)}"
        if self._seconds is not None and self._budget.spent + self._expected > self._seconds:
            return f"{taken}, more than is left of seconds={self._seconds:g}"
        return (
            f"{taken}, and {readable_time(self._budget.spent)} were spent in "
            f"{readable_time(self._budget.training)} of training: it waits until that is at most "
            f"{self._share:.0%} (share={self._share:g}; share=None measures every "
            f"{counted(self.every, 'step')})"
        )

    def measure(self, step: int, model: nn.Module, optimizer: Any = None) -> dict[str, float]:
        """The numbers of the model as it is now, with their errors, by the names that are logged.

        A measure that fails is left out, with a warning.
        """
        tracker, model = self._tracker, _plain(model)
        assert tracker is not None
        before = self._budget.spent
        with self._budget.spending(), global_random_state_kept():
            moment = Moment(
                steps=step,
                epochs=0,
                epoch_ended=False,
                ended=False,
                model=model,
                network=self._network,
                rows=self._rows,
                optimizer=getattr(optimizer, "optimizer", optimizer) or _NoOptimizer(),
                loss=lambda: math.nan,
            )
            try:
                tracker.look(moment)
            except SharpError as error:
                _log.warning("sharpness at step %d: %s", step, error)
                return {}
        self._expected = self._budget.spent - before
        found = tracker.steps.pop()
        for name, failure in (found.failures or {}).items():
            _log.warning("sharpness at step %d: %s: %s", step, name, failure.message)
        return self._named(found.measures, self._expected)

    def _named(self, measures: Mapping[str, Any], seconds: float) -> dict[str, float]:
        named = {}
        for key, scalar in flat_scalars(measures).items():
            if scalar["value"] is None:
                continue
            named[key] = float(scalar["value"])
            for error in ("error", "sampling_error"):
                if scalar.get(error) is not None:
                    named[f"{key}.{error}"] = float(scalar[error])
        if named:
            named["seconds"] = seconds
        return {f"{self._prefix}{key}": value for key, value in named.items()}


class _NoOptimizer:
    """Stands where no optimizer is known: no rate and no state."""

    param_groups: Sequence[Mapping[str, Any]] = ({},)
    state: Mapping[Any, Any] = {}


def _with_predict(task: Task, function: Callable[[nn.Module, Any], Any]) -> Task:
    import dataclasses

    return dataclasses.replace(task, predict=function)


def _plain(model: nn.Module) -> nn.Module:
    """The model without what compilation and mixed precision wrap around it."""
    model = getattr(model, "_orig_mod", model)
    if "_original_forward" in vars(model):  # accelerate's autocast
        model = copy.copy(model)
        for name in ("forward", "_original_forward"):
            vars(model).pop(name)
    return model
