"""Loss and metrics of a batch as a function of θ, in float64 if the model supports it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sharpcli.objective.loss_and_metrics import loss_and_metrics
from sharpcli.objective.objective import Objective
from sharpcli.objective.rows import Rows
from sharpcli.runtime.memory import available_memory

__all__ = ["LOSS", "ROUNDING", "BatchValues", "Pairs", "values_in_float64"]

# The part of the free memory for θ in float64 and two copies of it.
_MEMORY_SHARE = 4
# How much the order of sums may change losses, by the coarsest arithmetic seen in the forward pass:
# a share of the largest loss, and a multiple of the change that the last place of θ causes. A
# coupling changes losses by 1e-3 and more.
ROUNDING = {
    torch.float64: (1e-11, 256),
    torch.float32: (3e-5, 64),
    torch.float16: (0.02, 2),
    torch.bfloat16: (0.05, 2),
}
# Losses near zero show no coupling. So they are also compared at a moved θ: by this share of each
# tensor's root mean square, or of a hundredth if the root mean square is less.
_MOVED, _AT_LEAST = 0.1, 0.01
# PyTorch functions that do not round, unless their result has a coarser type than their input.
_COPYING = {
    *("as_tensor", "tensor", "detach", "clone", "contiguous", "to", "type", "float", "__get__"),
    *("view", "reshape", "expand", "squeeze", "unsqueeze", "flatten", "cat", "stack"),
}
LOSS = "loss"
Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Loss and metrics of a batch: float64 sums and weights, (N,) or one number each."""


@dataclass(frozen=True)
class BatchValues:
    """Loss and metrics of a batch as a function of θ, and their values at the checkpoint's θ.

    `coarsest` is the coarsest floating-point type seen in a forward pass.
    """

    objective: Objective
    theta: Tensor
    whole: Pairs
    coarsest: torch.dtype

    def values(self, theta: Tensor, rows: Rows) -> Pairs:
        """Loss and metrics of the rows as one batch at θ. Cost: a forward pass over them."""
        return _values(self.objective, theta, rows)

    def moved(self, moves: Tensor) -> Tensor:
        """θ moved by `moves` (n,), in units of a share of each tensor's root mean square."""
        moved, parts = self.theta.clone(), self.objective.network.unflatten
        for own, move in zip(parts(moved), parts(moves), strict=True):
            size = float(own.norm()) / math.sqrt(max(own.numel(), 1))
            own.add_(move, alpha=_MOVED * max(size, _AT_LEAST))
        return moved


def values_in_float64(objective: Objective, theta: Tensor, rows: Rows) -> BatchValues:
    """The objective's values in float64, or in its own arithmetic if float64 is not available."""
    network, wide = objective.network, torch.float64
    free = available_memory(network.device)
    free = free if objective.memory is None else min(free, objective.memory)
    fits = 3 * theta.numel() * wide.itemsize <= free / _MEMORY_SHARE
    found = None
    if network.compute != wide and fits:
        found = objective.try_in(wide, theta, lambda double, point: _watched(double, point, rows))
    return found or _watched(objective, theta, rows)


def _watched(objective: Objective, theta: Tensor, rows: Rows) -> BatchValues:
    with _PrecisionWatch(objective.network.compute) as watch:
        whole = _values(objective, theta, rows)
    return BatchValues(objective, theta, whole, watch.coarsest)


class _PrecisionWatch(TorchFunctionMode):
    """Records the coarsest floating-point type that the block computes from other floats.

    New numbers, flags and counts turned into floats, and copies of these are exact and do not
    count.
    """

    def __init__(self, coarsest: torch.dtype) -> None:
        super().__init__()
        self.coarsest = coarsest

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        given = [each for each in args if isinstance(each, Tensor) and each.is_floating_point()]
        if isinstance(found, Tensor) and found.dtype in ROUNDING and given:
            step = torch.finfo(found.dtype).eps
            narrowed = any(torch.finfo(each.dtype).eps < step for each in given)
            copied = getattr(function, "__name__", "") in _COPYING and not narrowed
            if step > torch.finfo(self.coarsest).eps and not copied:
                self.coarsest = found.dtype
        return found


def _values(objective: Objective, theta: Tensor, rows: Rows) -> Pairs:
    network = objective.network
    batch = rows.to(network.device, network.compute).batch
    with torch.no_grad(), network.arithmetic():
        (_, loss), *metrics = loss_and_metrics(
            network, network.unflatten(theta), objective.fixed, batch, rows.count
        )
    return {LOSS: loss} | {f"metric '{name}'": pair for name, pair in metrics}
