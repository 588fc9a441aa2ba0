"""Trainings that are stopped between two steps, and go on from their state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sharpcli.tasks import Task
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train
from sharpcli.training.outcome import Trained
from sharpcli.training.state import StateFile


class StoppedError(Exception):
    """The process ends here."""


class Stopping(StateFile):
    """Keeps the state of every step, and stops after some."""

    left = 0

    @property
    def due(self) -> bool:
        """Always."""
        return True

    def write(self, state: Any) -> None:
        """Write it, or stop."""
        if not self.left:
            raise StoppedError
        self.left -= 1
        super().write(state)


def interrupted(task: Task, settings: TrainSettings, output: Path, after: int) -> Trained:
    """A training that is stopped after so many steps, again and again, until it ends."""
    while True:
        file = Stopping(output)
        file.left = after
        try:
            return train(task, settings, state=file)
        except StoppedError:
            assert file.path.exists()


def same(first: Trained, other: Trained) -> None:
    """Assert that two trainings gave the same weights and curves."""
    pairs = zip(first.tensors.items(), other.tensors.items(), strict=True)
    tensors = all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert tensors
    assert first.curves == other.curves
    assert (first.train_loss, first.steps) == (other.train_loss, other.steps)
