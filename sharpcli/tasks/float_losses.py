"""Default losses for floating-point targets, where no other loss can be meant.

Squared errors and binary cross-entropies take targets of the same shape. Which one it is follows
from all of the data, and never from one batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from sharpcli.errors import SharpError
from sharpcli.tasks import defaults
from sharpcli.tasks.notes import note

if TYPE_CHECKING:
    from sharpcli.tasks import Task

__all__ = [
    "FloatTargets",
    "binary_cross_entropy",
    "float_targets",
    "squared_error",
    "with_float_loss",
]

_SQUARES = "return (outputs - batch[1]).square().flatten(1).mean(1)"
_BINARY = (
    "return functional.binary_cross_entropy_with_logits(outputs, batch[1], "
    "reduction='none').flatten(1).mean(1)"
)
_SOFT = "return functional.cross_entropy(outputs, batch[1], reduction='none')"


@dataclass(frozen=True)
class FloatTargets:
    """What floating-point targets are; `partly` if only a part of the split was looked at."""

    binary: bool
    inside: bool
    columns: bool
    one_hot: bool
    partly: str = ""


def float_targets(task: Task, batches: Iterable[Any], partly: str = "") -> FloatTargets | None:
    """What the targets are by which a loss is chosen; None if the task needs none or has others.

    Args:
        task: Any task.
        batches: All of the data. Only the first batch is taken if its targets are no floats.
        partly: Which rows these are, in words, if not all.

    Cost: a look at every target.
    """
    if not defaults.is_default(task.loss):
        return None
    binary = columns = True
    inside = one_hot = True
    for batch in batches:
        targets = defaults.targets_of(batch)
        if not isinstance(targets, Tensor) or not targets.is_floating_point():
            return None
        binary = binary and bool(((targets == 0) | (targets == 1)).all())
        inside = inside and bool(((targets >= 0) & (targets <= 1)).all())
        columns = columns and targets.ndim == 2 and targets.shape[1] > 1
        sums = targets.sum(1) if columns else targets.new_zeros(1)
        one_hot = one_hot and bool(((sums - 1).abs() < _ROUNDING).all())
        if not inside:
            break
    return FloatTargets(binary, inside, columns, one_hot, partly)


def with_float_loss(task: Task, targets: FloatTargets | None) -> Task:
    """The task with the loss for its targets, if they are floats and it has the default loss.

    Targets of zeros and ones in several columns are labels; numbers outside [0, 1] are those of a
    regression. Anything between may be either, and the loss then asks for one.
    """
    if targets is None or not defaults.is_default(task.loss):
        return task
    if not targets.inside:
        loss = _loss(task.name, squared_error, logits=False)
        said = (
            "the task has no loss, and its targets are numbers: it is the squared error, the mean "
            "over an example's outputs, as nn.MSELoss"
        )
    elif targets.binary and targets.columns and not targets.one_hot:
        loss = _loss(task.name, binary_cross_entropy, logits=True)
        said = (
            "the task has no loss, and its targets are zeros and ones for several labels: it is "
            "the binary cross-entropy of logits, the mean over the labels, as nn.BCEWithLogitsLoss"
        )
    else:
        return _with(task, _asking(task.name, targets.one_hot and targets.columns))
    note(said + (f" ({targets.partly})" if targets.partly else ""))
    return _with(task, loss)


def _with(task: Task, loss: Callable[[Any, Any], Any]) -> Task:
    return dataclasses.replace(task, loss=loss, smoothed_loss=None)


_ROUNDING = 1e-3  # classes' probabilities that sum to 1 in half precision


def _loss(
    where: str, function: Callable[[Tensor, Tensor], Tensor], *, logits: bool
) -> Callable[[Any, Any], Any]:
    """The loss of a batch by `function`; raises `SharpError` for outputs of another shape."""
    unsure = logits

    def loss(outputs: Any, batch: Any) -> Tensor:
        nonlocal unsure
        scores, targets = defaults.scores_of(outputs), defaults.targets_of(batch)
        fit = isinstance(scores, Tensor) and isinstance(targets, Tensor)
        if not fit or scores.shape != targets.shape or not scores.is_floating_point():
            raise SharpError(*defaults.no_loss(where, outputs, batch))
        if unsure:  # at the first batch
            unsure = False
            if bool(((scores >= 0) & (scores <= 1)).all()):
                raise SharpError(
                    f"{where}: has no `loss`, and whether the outputs, all in [0, 1], are logits "
                    "or probabilities is not known",
                    f"write `def loss(outputs, batch): …`; for logits {_BINARY}",
                )
        return function(scores, targets)

    # The outputs are natural parameters: the mean of a normal distribution, or logits.
    loss.exponential_family = True  # type: ignore[attr-defined]
    return loss


def _asking(where: str, one_hot: bool) -> Callable[[Any, Any], Any]:
    """A loss that asks for one, since the targets fit two."""
    what = "each sum to 1 in a row" if one_hot else "are all in [0, 1]"
    first = f"cross-entropy: {_SOFT}" if one_hot else f"binary cross-entropy of logits: {_BINARY}"

    def loss(outputs: Any, batch: Any) -> Tensor:
        del outputs, batch
        raise SharpError(
            f"{where}: has no `loss`, and more than one fits the targets, which {what}",
            f"write `def loss(outputs, batch): …`: for {first}; for squared errors: {_SQUARES}",
        )

    return loss


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each example's mean squared error (N,), in float64: the mean is that of nn.MSELoss."""
    difference = _double(outputs) - _double(targets)
    return difference.square().flatten(1).mean(1) if outputs.ndim > 1 else difference.square()


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each example's mean over its labels (N,), in float64: as nn.BCEWithLogitsLoss."""
    scores = _double(outputs)
    losses = functional.binary_cross_entropy_with_logits(
        scores, targets.to(scores.dtype), reduction="none"
    )
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


def _double(values: Tensor) -> Tensor:
    """In float64 where the device has it: a loss near 0 is otherwise rounding."""
    return values if values.device.type == "mps" else values.double()
