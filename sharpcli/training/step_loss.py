"""The loss of a batch that a step follows: by the model itself, in training mode."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sharpcli.objective.losses import sums_and_weights
from sharpcli.objective.objective import check_gradient
from sharpcli.tasks import Task

__all__ = ["differentiable", "loss_sum", "mean_loss"]


def mean_loss(task: Task, model: nn.Module, batch: Any, count: int) -> Tensor:
    """The mean loss of a batch of `count` examples, in the loss's own dtype.

    A loss may have a faster way to its mean, `training_mean`, as the default loss has.
    """
    outputs = task.predict(model, batch)
    fast = getattr(task.loss, "training_mean", None)
    mean: Tensor | None = None if fast is None else fast(outputs, batch)
    if mean is not None:
        return mean
    total, weight = _sums(task, outputs, batch, count)
    return total.sum() / weight.sum()


def loss_sum(task: Task, model: nn.Module, batch: Any, count: int) -> tuple[Tensor, Tensor]:
    """Sum and weight of the loss whose mean is `mean_loss`."""
    total, weight = _sums(task, task.predict(model, batch), batch, count)
    return total.sum(), weight.sum()


def differentiable(loss: Tensor) -> Tensor:
    """The loss itself; `SharpError` if it has no gradient."""
    check_gradient(loss, "and run neither under torch.no_grad()")
    return loss


def _sums(task: Task, outputs: Any, batch: Any, count: int) -> tuple[Tensor, Tensor]:
    return sums_and_weights(task.loss(outputs, batch), count, f"{task.name}: loss")
