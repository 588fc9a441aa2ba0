"""What a search looks at while it trains: its objective on one split, between steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from sharpcli.errors import UsageError
from sharpcli.objective.objective import Objective
from sharpcli.objective.reading import read_rows
from sharpcli.objective.rows import Rows
from sharpcli.tasks import Task
from sharpcli.training.loop import EVALUATION_BATCH
from sharpcli.training.outcome import DivergedError
from sharpcli.training.watchers import Moment

__all__ = ["ObjectiveError", "Scorer"]


class ObjectiveError(UsageError):
    """The task does not have the objective, or the data to take it on, in any training."""


class Scorer:
    """Evaluates an objective after each epoch, or after every so many steps, and at the end.

    `report(at, value)` is called with each, `at` the epochs or steps until then; it may end the
    training by an error of its own. `value` is the last one.
    """

    name = "score"

    def __init__(
        self,
        task: Task,
        objective: str,
        split: str,
        every: int | None,
        report: Callable[[int, float], None],
    ) -> None:
        self._task, self._objective, self._split = task, objective, split
        self._every, self._report = every, report
        self._rows: Rows | None = None
        self._points: list[tuple[int, float]] = []
        self.value = math.nan

    def wants(self, steps: int, *, epoch_ended: bool, ended: bool) -> bool:
        """After an epoch, or after so many steps, and at the end."""
        if self._every is None:
            return ended or epoch_ended
        return ended or (steps > 0 and steps % self._every == 0)

    def look(self, moment: Moment) -> None:
        """Evaluate, and report.

        Raises:
            DivergedError: The objective is not finite.
            ObjectiveError: The task has no such metric, or no such data.
        """
        network = moment.network
        tensors = moment.model.state_dict()
        fixed = network.fixed(tensors)
        objective = Objective(network, self._data(moment), fixed, batch_size=EVALUATION_BATCH)
        found = objective.evaluate(network.flatten(tensors))
        if self._objective != "loss" and self._objective not in found.metrics:
            raise ObjectiveError(
                f"{self._task.name} has no metric '{self._objective}'",
                f"its objectives: {', '.join(['loss', *found.metrics])}",
            )
        mean = found.loss if self._objective == "loss" else found.metrics[self._objective]
        self.value = mean.value
        if not math.isfinite(self.value):
            raise DivergedError(
                f"{self._task.name}: {self._objective} on {self._split} data is {self.value} at "
                f"step {moment.steps}",
                "lower the learning rate",
            )
        at = moment.epochs if self._every is None else moment.steps
        self._points.append((at, self.value))
        self._report(at, self.value)

    def state(self) -> list[tuple[int, float]]:
        """All that has been evaluated."""
        return self._points

    def restore(self, state: list[tuple[int, float]]) -> None:
        """Report again what was evaluated before the training was interrupted."""
        for at, value in state:
            self._points.append((at, value))
            self._report(at, value)

    def _data(self, moment: Moment) -> Rows:
        """The rows of the split; a fixed batch is that of the training."""
        if self._split == "train":
            return moment.rows
        if self._rows is None:
            task, name = self._task, f"{self._split} data of {self._task.name}"
            data = task.data(self._split)
            if data is None:
                raise ObjectiveError(
                    f"{task.name}: has no {self._split} data", "name another split"
                )
            rows = read_rows(data, name=name, collate=task.collate)
            rows = rows.to(moment.network.device, torch.get_default_dtype())
            self._rows = rows.with_fixed_batch(moment.rows.fixed_batch)
        return self._rows
