"""Loss and metrics on training and test data on the way: a watcher of a training."""

from __future__ import annotations

from typing import Any, Literal

import torch

from sharpcli.documents.checkpoints import Evaluations
from sharpcli.objective.objective import Objective
from sharpcli.objective.reading import read_rows
from sharpcli.objective.rows import Rows
from sharpcli.tasks import Task
from sharpcli.training.watchers import Moment

__all__ = ["MOST_EXAMPLES", "EvaluationWatcher"]

MOST_EXAMPLES = 10_000  # of a split: the standard error of an accuracy is then at most 0.005
_BATCH = 1024  # bounds memory only
_SEED = 0  # of the sample: the same for all trainings, so that they can be compared


class EvaluationWatcher:
    """Evaluates a training before its first step, every so often, and at the end.

    Of a split with more than `MOST_EXAMPLES` it takes a random sample, the same one every time and
    in every training. The weights are those that would be saved, in eval mode.

    Args:
        task: gives the test data, if any, and the metrics.
        every: updates between two evaluations, or "epoch".
    """

    name = "evaluations"

    def __init__(self, task: Task, every: int | Literal["epoch"]) -> None:
        self._task, self._every = task, every
        self._rows: dict[str, Rows] | None = None
        self._step: list[int] = []
        self._epochs: list[float] = []
        self._seconds: list[float] = []
        self._values: dict[str, dict[str, list[float]]] = {"train": {}, "test": {}}

    def wants(self, steps: int, *, epoch_ended: bool, ended: bool) -> bool:
        """Whether this is the beginning, the end, or a step in between that is asked for."""
        if steps == 0 or ended:
            return True
        return epoch_ended if self._every == "epoch" else steps % self._every == 0

    def look(self, moment: Moment) -> None:
        """Evaluate. Cost: a forward pass over both splits."""
        if self._rows is None:
            self._rows = self._read(moment)
        network, tensors = moment.network, moment.tensors()
        theta, fixed = network.flatten(tensors), network.fixed(tensors)
        self._step.append(moment.steps)
        self._epochs.append(moment.passes)
        self._seconds.append(moment.seconds)
        for split, rows in self._rows.items():
            found = Objective(network, rows, fixed, batch_size=_BATCH).evaluate(theta)
            values = {name: mean.value for name, mean in found.metrics.items()}
            for name, value in {"loss": found.loss.value, **values}.items():
                self._values[split].setdefault(name, []).append(value)

    def evaluations(self) -> Evaluations:
        """All of them so far."""
        return Evaluations(
            step=tuple(self._step),
            epochs=tuple(self._epochs),
            seconds=tuple(self._seconds),
            train=self._values["train"],
            test=self._values["test"] or None,
        )

    def state(self) -> Any:
        """What `restore` goes on from."""
        return {
            "step": list(self._step),
            "epochs": list(self._epochs),
            "seconds": list(self._seconds),
            "values": self._values,
        }

    def restore(self, state: Any) -> None:
        """Go on where `state` was taken."""
        self._step, self._epochs = list(state["step"]), list(state["epochs"])
        self._seconds, self._values = list(state["seconds"]), state["values"]

    def _read(self, moment: Moment) -> dict[str, Rows]:
        """The rows of each split, at most `MOST_EXAMPLES` of them."""
        rows = {"train": _some(moment.rows)}
        data = self._task.data("test")
        if data is not None:
            name = f"test data of {self._task.name}"
            test = read_rows(data, name=name, collate=self._task.collate)
            network = moment.network
            test = test.to(network.device, network.compute)
            rows["test"] = _some(test.with_fixed_batch(moment.rows.fixed_batch))
        return rows


def _some(rows: Rows) -> Rows:
    """A sample of the rows where there are many; with fixed batches a whole number of them."""
    count = MOST_EXAMPLES
    if rows.fixed_batch is not None:
        count = max(count - count % rows.fixed_batch, rows.fixed_batch)
    if rows.count <= count:
        return rows
    order = torch.randperm(rows.count, generator=torch.Generator().manual_seed(_SEED))
    return rows.take(order[:count].sort().values)
