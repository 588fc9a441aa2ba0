"""Convert what a task's loss or metric returns to sums and weights of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import SharpError, counted

__all__ = ["sums_and_weights"]


def sums_and_weights(value: Any, count: int, source: str) -> tuple[Tensor, Tensor]:
    """Normalise the value of a loss or metric: values (N,), or a pair (sum, weight)."""
    examples = counted(count, "example")
    if isinstance(value, tuple | list) and len(value) == 2:
        try:
            total, weight = (torch.as_tensor(part) for part in value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SharpError(
                f"{source} gave a pair of {_kind_of(value[0])} and {_kind_of(value[1])}",
                _ONE_FOR_EACH,
            ) from error
        _refuse_complex(source, total, weight)
        if total.shape == weight.shape and total.shape in (torch.Size([]), torch.Size([count])):
            return total, weight.detach().to(total.device)
        raise SharpError(
            f"{source} gave a sum of shape {tuple(total.shape)} and a weight of shape "
            f"{tuple(weight.shape)} for {examples}",
            f"both must be single numbers or of shape ({count},)",
        )
    if not isinstance(value, Tensor) or value.shape != (count,):
        raise SharpError(
            f"{source} gave {_kind_of(value)} for a batch of {examples}", _advice(value, count)
        )
    _refuse_complex(source, value)
    return value, torch.ones_like(value, requires_grad=False)


def _refuse_complex(source: str, *values: Tensor) -> None:
    if any(value.is_complex() for value in values):
        raise SharpError(f"{source} gave complex numbers", "return real ones: .real or .abs()")


_ONE_FOR_EACH = "return one value for each example, shape (N,), or a pair (sum, weight)"


def _advice(value: Any, count: int) -> str:
    """What to return instead of a value that is not one number for each of `count` examples."""
    if value is None:
        return "is `return` missing in it?"
    if not isinstance(value, Tensor):
        return _ONE_FOR_EACH + (", as tensors" if not isinstance(value, float | int) else "")
    if value.ndim == 0:
        return (
            "return one value for each example (reduction='none'), or a pair (sum, weight). With "
            "class weights w that is (losses, w[targets]) with losses = cross_entropy(outputs, "
            "targets, weight=w, reduction='none'): the mean of nn.CrossEntropyLoss(weight=w)"
        )
    if value.shape == (count, 1):
        return "leave its last axis out: .squeeze(1)"
    if value.ndim > 1 and value.shape[0] == count:
        return (
            "sum or average over all axes but the first: .flatten(1).mean(1); of sequences whose "
            "lengths differ return the pair (sums, lengths)"
        )
    return _ONE_FOR_EACH


def _kind_of(value: Any) -> str:
    """What a task returned, in a few words."""
    if not isinstance(value, Tensor):
        return "None" if value is None else f"a value of type {type(value).__name__}"
    return "a single number" if value.ndim == 0 else f"a tensor of shape {tuple(value.shape)}"
