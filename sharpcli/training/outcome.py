"""What comes of a training: a trained model, or an error."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpcli.checkpoint import Checkpoint
from sharpcli.documents.checkpoints import Evaluations, Tracked, TrainingCurves
from sharpcli.errors import SharpError, setting
from sharpcli.objective.checks import MEND_DATA
from sharpcli.objective.rows import Rows
from sharpcli.tasks import Task
from sharpcli.training.train_settings import TrainSettings

__all__ = ["DivergedError", "Trained", "not_finite"]


class DivergedError(SharpError):
    """The training loss is not finite, and the data are."""


@dataclass(frozen=True)
class Trained:
    """A trained model's tensors (on the CPU), and the outcome of the training.

    `train_loss` is the mean loss over all training data in eval mode, without weight decay.
    `epochs` are those that were begun. `reached` says whether the loss is at most `until_loss`
    (True where none was asked for). `problem` is why no state could be kept on the way. `saved` is
    the checkpoint that holds it, once it is written. `tracked` is what was measured during it.
    """

    tensors: dict[str, Tensor]
    train_loss: float
    epochs: int
    steps: int
    reached: bool
    curves: TrainingCurves | None = None
    evaluations: Evaluations | None = None
    problem: str | None = None
    saved: Checkpoint | None = None
    tracked: Tracked | None = None


def not_finite(
    task: Task, settings: TrainSettings, rows: Rows, loss: float, step: int
) -> SharpError:
    """The error for a loss that is not finite at a step, counted from 1."""
    said = f"{task.name}: the training loss is {loss} at step {step}"
    if bad := rows.not_finite():
        return SharpError(f"{said}: {bad}", MEND_DATA)
    size = settings.step_size
    rate = "" if size is None else f" ({setting('lr')} is {size:g})"
    return DivergedError(said, f"lower the learning rate{rate}")
