"""Checks that an objective is one fixed, finite function, and where it is not."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError, setting
from sharpcli.objective.objective import Objective
from sharpcli.objective.trees import equal_tensors

__all__ = [
    "MEND_DATA",
    "SMALLEST_SOUND",
    "check_deterministic",
    "check_finite",
    "end_of_float64",
    "why_not_finite",
]


MEND_DATA = (
    "the data are the cause, not the weights: fix these rows or leave them out in data(), or mask "
    "them in loss()"
)
# A loss near 1 − 1 is a multiple of this: half of the last place of 1 in float64.
_QUANTUM = 2.0**-53
# Mean losses above this have at least three digits, in any order of summation.
SMALLEST_SOUND = 1e-13


def end_of_float64(objective: Objective, loss: float, theta: Tensor) -> str | None:
    """Explain why float64 is too coarse for this loss; None if it is not.

    A cross-entropy is the logarithm of a probability p near 1, where numbers are 1.1e-16 apart. So
    a very small loss is a few multiples of that, and its derivatives, which consist of 1 − p, are
    rounding as well. A squared error has no such limit. Cost: a forward pass if the loss is below
    1e-13.
    """
    if not 0 <= loss < SMALLEST_SOUND:
        return None
    if loss == 0:
        ended = bool(getattr(objective.network.task.loss, "exponential_family", False))
    else:
        try:
            sums, _ = objective.per_example_losses(theta)
        except SharpError:  # the task returns one sum for a batch
            return None
        steps = sums / _QUANTUM
        ended = bool(((steps - steps.round()).abs() < 1e-6).all())
    if not ended:
        return None
    return (
        f"the loss ({loss:.2g}) is at the end of float64, which does not resolve losses of an "
        "example below 1.1e-16, so numbers computed from it are rounding: compare checkpoints from "
        f"earlier in training, at losses above {SMALLEST_SOUND:g}"
    )


def check_deterministic(objective: Objective, theta: Tensor) -> None:
    """Raise `SharpError` if two evaluations differ or a forward pass changes a buffer."""
    rows = objective.rows.head(64)
    before = {name: tensor.clone() for name, tensor in objective.fixed.items()}
    parameters = objective.network.unflatten(theta)
    with torch.no_grad():
        first, again = (
            float(objective.sum_and_weight(parameters, rows.batch, rows.count)[0]) for _ in range(2)
        )
    changed = [k for k, old in before.items() if not equal_tensors(old, objective.fixed[k])]
    if changed:
        raise SharpError(
            f"a forward pass changes the buffer '{changed[0]}'",
            "the model must be in evaluation mode in predict(); if it is, let forward() change "
            "its buffers in training only: if self.training",
        )
    # Another order of sums changes the loss by rounding; randomness changes it by far more.
    rounding = 100 * torch.finfo(objective.network.compute).eps * abs(first)
    if abs(first - again) > rounding:  # never true for NaN, which a later check explains
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
    """Check that the loss and its gradient are finite, and locate the first value that is not.

    A loss that is not finite is traced to a row of the data, to the first module with such an
    output, or to the loss function.

    Raises:
        SharpError: if the loss or the gradient is not finite.

    Cost: two forward passes, only in that case.
    """
    if not math.isfinite(loss):
        what, hint = why_not_finite(objective, theta)
        raise SharpError(f"the loss is {loss}: {what}", hint)
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        if bad := objective.rows.not_finite():
            raise SharpError(f"the gradient is not finite: {bad}", MEND_DATA)
        index = int((~torch.isfinite(gradient)).nonzero()[0])
        raise SharpError(
            f"the gradient is not finite, first in '{objective.network.locate(index)}'",
            "either the weights have diverged (measure an earlier checkpoint), or the loss has "
            "a singular point here (sqrt or log at 0; move it off with a small constant)",
        )


def why_not_finite(objective: Objective, theta: Tensor) -> tuple[str, str]:
    """Where a non-finite loss with finite parameters begins, and what to do about it."""
    rows, kind = objective.rows, objective.network.compute
    row = _first_bad_row(objective, theta)
    if bad := rows.not_finite(row):
        larger = (
            f", or {setting('dtype', 'float64')} for numbers above {torch.finfo(kind).max:.1e}, "
            f"which {_name(kind)} does not hold"
        )
        return bad, (MEND_DATA + (larger if "infinity" in bad and kind != torch.float64 else ""))
    earlier = "measure a checkpoint from before the run diverged"
    wider = "" if kind == torch.float64 else f", or try {setting('dtype', 'float64')}"
    name, examples = _first_bad_module(objective, theta, row)
    if name:
        return (
            f"the output of '{name}' is not finite for {examples}, though all weights and data are",
            f"{_largest(objective, theta)}: where that is too large, the run has overflowed, so "
            f"{earlier}{wider}; where it is not, the module divides by 0 or takes a log or root of "
            "it",
        )
    if examples:
        return (
            f"loss() is not finite for {examples}, though the outputs are",
            "keep loss() off its singular points (log or a root of 0, 0/0) with a small constant; "
            f"where the outputs are too large for it, {earlier}{wider}",
        )
    return "the sum over all examples overflows", f"{earlier}{wider}"


def _first_bad_row(objective: Objective, theta: Tensor) -> int | None:
    """The first example whose loss is not finite; None if the task returns one sum for a batch."""
    try:
        sums, _ = objective.per_example_losses(theta)
    except SharpError:
        return None
    bad = (~torch.isfinite(sums)).nonzero()
    return int(bad[0]) if len(bad) else None


def _first_bad_module(
    objective: Objective, theta: Tensor, row: int | None
) -> tuple[str | None, str | None]:
    """The first module with a non-finite output, and the examples of that batch.

    No module if only the loss is not finite; neither if every batch is finite. The examples are the
    `row` alone, if it is known.
    """
    found: list[str] = []
    hooks = []
    for name, module in objective.network.model.named_modules():

        def look(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
            for part in output if isinstance(output, tuple | list) else [output]:
                if isinstance(part, Tensor) and not bool(torch.isfinite(part).all()):
                    found.append(name or type(module).__name__)

        hooks.append(module.register_forward_hook(look))
    rows, (start, _) = objective.rows, objective.share
    try:
        with torch.no_grad():
            for batch, count in objective.batches():
                parameters = objective.network.unflatten(theta)
                total, _ = objective.sum_and_weight(parameters, batch, count)
                if found or not bool(torch.isfinite(total)):
                    order = objective.visited
                    ends = (start, start + count - 1)
                    if order is not None:
                        chosen = order[start : start + count]
                        ends = (int(chosen.min()), int(chosen.max()))
                    examples = f"examples {rows.number(ends[0])} to {rows.number(ends[1])}"
                    if row is not None:
                        examples = f"example {rows.number(row)}"
                    return next(iter(found), None), f"{examples} of the {rows.name}"
                start += count
    finally:
        for hook in hooks:
            hook.remove()
    return None, None


def _largest(objective: Objective, theta: Tensor) -> str:
    """The largest weight, and the tensor that holds it."""
    index = int(theta.abs().argmax())
    size, name = float(theta[index].abs()), objective.network.locate(index)
    return f"the largest weight is {size:.2g}, in '{name}'"


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
