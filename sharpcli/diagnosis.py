"""What is wrong with an objective: it is not one function, or not finite; and where."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .errors import SharpError
from .objective import Objective

__all__ = ["check_deterministic", "check_finite"]


def check_deterministic(objective: Objective, theta: Tensor) -> None:
    """Raise `SharpError` where two evaluations differ, or where a forward pass has effects."""
    rows = objective.rows.head(64)
    before = {name: tensor.clone() for name, tensor in objective.fixed.items()}
    parameters = objective.network.unflatten(theta)
    with torch.no_grad():
        first, again = (
            float(objective.sum_and_weight(parameters, rows.batch, rows.count)[0]) for _ in range(2)
        )
    changed = [k for k, old in before.items() if not torch.equal(old, objective.fixed[k])]
    if changed:
        raise SharpError(
            f"a forward pass changes the buffer '{changed[0]}'",
            "the model must be in evaluation mode in predict(); where it is, let forward() change "
            "its buffers in training only: if self.training",
        )
    # Sums in another order differ by rounding; randomness differs by far more.
    rounding = 100 * torch.finfo(objective.network.compute).eps * abs(first)
    if abs(first - again) > rounding:  # never for NaN, which is found later and named
        random = [
            f"{name or 'the model'} ({type(module).__name__})"
            for name, module in objective.network.model.named_modules()
            if "Dropout" in type(module).__name__ and module.training
        ]
        what = (
            f"active dropout in {random[0]}"
            if random
            else "randomness in the forward pass, such as F.dropout"
        )
        raise SharpError(
            f"two evaluations of the same batch differ ({first:.9g} and {again:.9g}): {what}",
            "switch it off (F.dropout needs training=self.training): the objective must be one "
            "fixed function",
        )


def check_finite(
    objective: Objective, loss: float, theta: Tensor, gradient: Tensor | None = None
) -> None:
    """Raise `SharpError` naming the first tensor that is not finite."""
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise SharpError(
            f"the loss is {loss}: {_first_not_finite(objective, theta)}",
            "measure a checkpoint from before the run diverged, or try --dtype float64",
        )
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        index = int((~torch.isfinite(gradient)).nonzero()[0])
        raise SharpError(
            f"the gradient is not finite, first in '{objective.network.locate(index)}'",
            "either the weights have diverged (measure an earlier checkpoint), or the loss has "
            "a singular point here (sqrt or log at 0; move it off with a small constant)",
        )


def _first_not_finite(objective: Objective, theta: Tensor) -> str:
    """Which module's output is the first that is not finite, and for which examples."""
    found: list[str] = []
    hooks = []
    for name, module in objective.network.model.named_modules():

        def look(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(f"the output of '{name or type(module).__name__}' is not finite")

        hooks.append(module.register_forward_hook(look))
    start, _ = objective.share
    try:
        with torch.no_grad():
            for batch, count in objective.batches():
                parameters = objective.network.unflatten(theta)
                total, _ = objective.sum_and_weight(parameters, batch, count)
                if found or not bool(torch.isfinite(total)):
                    where = f"examples {start} to {start + count - 1}"
                    return f"{found[0]} for {where}" if found else f"on {where}"
                start += count
    finally:
        for hook in hooks:
            hook.remove()
    return "the sum over all examples overflows"
