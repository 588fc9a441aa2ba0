"""What a task's own model shows in one pass: the shapes of lazy layers, and which rows it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sharpcli.errors import SharpError
from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.collated import CollatedRows
from sharpcli.objective.rows import Batch, Rows

if TYPE_CHECKING:
    from sharpcli.tasks import Task

__all__ = ["give_shapes", "takes_lengths"]

# Rows of a pass: a loss of pairs is undefined for one.
_SHAPING_ROWS = 2


def give_shapes(model: nn.Module, task: Task, rows: Rows) -> None:
    """Give lazy layers their shapes, in place, by one forward pass on two rows.

    Raises:
        SharpError: if the pass leaves some without a shape.

    Cost: nothing without such layers.
    """
    if _lazy(model) is None:
        return
    _predict(model, task, rows.head(min(rows.fixed_batch or _SHAPING_ROWS, rows.count)))
    name = _lazy(model)
    if name is not None:
        raise SharpError(
            f"task '{task.name}': '{name}' is lazy and has no shape: a forward pass on the data "
            "does not use it",
            "name the layer's width in place of a lazy layer, or take the layer out",
        )


def takes_lengths(model: nn.Module, task: Task, rows: CollatedRows) -> bool:
    """Whether model and loss take batches that are padded to less than the longest row.

    Cost: a forward pass on the two shortest rows.
    """
    few = rows.shortest(_SHAPING_ROWS)
    try:
        task.loss(*_predict(model, task, few))
    except Exception:  # the width, or whatever else fails on all rows too and is said there
        return False
    return True


def _predict(model: nn.Module, task: Task, rows: Rows) -> tuple[Any, Batch]:
    """The outputs of the task's own model for some rows, and their batch."""
    modes = [(module, module.training) for module in model.modules()]
    kinds = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    batch = rows.to(torch.device("cpu"), kinds.pop() if kinds else torch.float32).batch
    model.eval()
    try:
        with torch.no_grad(), exact_arithmetic():
            return task.predict(model, batch), batch
    finally:
        for module, training in modes:
            module.training = training


def _lazy(model: nn.Module) -> str | None:
    """The first parameter or buffer without a shape."""
    named = (*model.named_parameters(), *model.named_buffers())
    return next((name for name, tensor in named if is_lazy(tensor)), None)
