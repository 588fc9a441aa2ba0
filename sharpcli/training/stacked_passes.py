"""Gradients of a stack of runs of any network: one pass by `torch.func.vmap`."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.objective.places import places_of
from sharpcli.objective.rows import Rows
from sharpcli.objective.trees import map_leaves
from sharpcli.runtime import interruption
from sharpcli.tasks import Task
from sharpcli.training.step_loss import mean_loss

__all__ = ["NotTogetherError", "VmapPass"]


class NotTogetherError(Exception):
    """Runs are to be trained one by one; it says why, in a few words."""


class VmapPass:
    """Writes the gradients of all runs' mean losses to where they belong.

    Random numbers in a pass are refused by `vmap`.

    Args:
        model: the network; its tensors are not used.
        task: its predict() and loss().
        weights: the parameters by name, with the runs as their first axis.
        gradients: where the gradients go, likewise.
        fixed: the other tensors by name, likewise. Buffers are updated in place.
        rows: the training data.
    """

    by_layers = False

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        weights: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
        rows: Rows,
    ) -> None:
        self._task, self._rows, self._fixed = task, rows, fixed
        self._leaves = {name: each.detach().requires_grad_() for name, each in weights.items()}
        self._gradients = [gradients[name] for name in weights]
        self._model = copy.deepcopy(model).train()
        self._places = places_of(self._model)
        self._updated = [name for name, _ in self._model.named_buffers()]

    def gradients(self, chosen: Tensor) -> Tensor:
        """Take the gradients of each run on its examples `chosen` (runs, size).

        A network or a loss that `vmap` cannot take is a `NotTogetherError`.

        Returns:
            The mean loss of each run (runs,).
        """
        runs, size = chosen.shape
        batch = self._rows.batch_of(chosen.reshape(-1))
        batch = map_leaves(batch, lambda leaf: leaf.view(runs, -1, *leaf.shape[1:]))
        with _not_together(), warnings.catch_warnings():
            # Whether vmap batches an operation by a loop shows in the timing.
            warnings.filterwarnings("ignore", message=".*performance drop")
            losses, buffers = torch.vmap(self._mean_loss, in_dims=(0, 0, None))(
                {**self._leaves, **self._fixed}, batch, size
            )
            found = torch.autograd.grad(losses.sum(), [*self._leaves.values()])
        torch._foreach_copy_(self._gradients, found)
        for name, value in buffers.items():
            if value is not self._fixed[name]:
                self._fixed[name].copy_(value)
        return losses.detach()

    def mean_losses(self, losses: Tensor) -> Tensor:
        """The losses: those of the runs are known already."""
        return losses

    def _mean_loss(
        self, tensors: dict[str, Tensor], batch: Any, count: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one run, and the buffers after the pass."""
        for name, tensor in tensors.items():
            for holder, key in self._places[name]:
                holder[key] = tensor
        mean = mean_loss(self._task, self._model, batch, count)
        return mean, {name: self._value(name) for name in self._updated}

    def _value(self, name: str) -> Tensor:
        holder, key = self._places[name][0]
        tensor: Tensor = holder[key]
        return tensor


@contextlib.contextmanager
def _not_together() -> Iterator[None]:
    """What `vmap` raises for a network that it cannot take becomes a `NotTogetherError`."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, SharpError) as error:
        if interruption.caused(error):
            raise
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotTogetherError(f"torch cannot stack the network: {line}") from error
