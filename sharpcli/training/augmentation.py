"""A task's augmentation of the batches of steps, from a random generator of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import SharpError, UsageError, counted, setting
from sharpcli.objective.rows import Batch
from sharpcli.objective.trees import leaves
from sharpcli.runtime.randomness import own_generator
from sharpcli.tasks import Task

__all__ = ["Augmenter"]


class Augmenter:
    """Changes the batches of a training's steps as the task says.

    Its random numbers move neither the order of the batches nor the model's dropout. Where a step
    needs the gradient of its batch more than once, all are of one augmented batch.

    Raises:
        UsageError: The task has no augmentation.
    """

    def __init__(self, task: Task, seed: int) -> None:
        if task.augment is None:
            raise UsageError(
                f"{setting('augment', True)}: {task.name} has no augmentation",
                "define augment(batch, generator) in the task, or leave it out",
            )
        self._name = task.name
        self._augment: Callable[[Batch, torch.Generator], Batch] = task.augment
        self._generator = own_generator("augmentation", seed)
        self._start = self._generator.get_state()

    def next_step(self) -> None:
        """Draw new numbers from here on."""
        self._start = self._generator.get_state()

    def again(self) -> None:
        """Draw the numbers of this step again."""
        self._generator.set_state(self._start)

    def augmented(self, batch: Batch) -> Batch:
        """The batch that a step takes in place of `batch`."""
        found = self._augment(batch, self._generator)
        if found is None:
            raise SharpError(
                f"{self._name}: augment(batch, generator) returned None", "is `return` missing?"
            )
        before, after = _examples(batch), _examples(found)
        if after != before:
            raise SharpError(
                f"{self._name}: augment(batch, generator) returned {counted(after, 'example')} for "
                f"a batch of {before}",
                "return as many examples as came in",
            )
        return found

    def state(self) -> Tensor:
        """What `restore` goes on from, between two steps."""
        return self._generator.get_state()

    def restore(self, state: Any) -> None:
        """Go on where `state` was taken."""
        self._generator.set_state(state)


def _examples(batch: Batch) -> int:
    """How many examples a batch has: the length of its first tensor; 0 without tensors."""
    return next((len(leaf) for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 0)
