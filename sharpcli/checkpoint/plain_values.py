"""Nests of tensors and plain values as JSON and numbered tensors, and back. No code is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["decoded", "encoded"]


def encoded(node: Any, tensors: dict[str, Tensor]) -> Any:
    """A nest of tensors and plain values as JSON; its tensors go to `tensors` by number.

    Raises:
        TypeError: for what is neither.
    """
    if isinstance(node, Tensor):
        # Kept in the order of its memory, on which the rounding of later products depends.
        name, plain = str(len(tensors)), node.detach().cpu()
        order = sorted(range(plain.ndim), key=plain.stride().__getitem__, reverse=True)
        tensors[name] = plain.permute(order).contiguous().clone()
        return {"tensor": [name, order, *(() if node.device.type == "cpu" else ("device",))]}
    if isinstance(node, tuple):
        return {"tuple": [encoded(each, tensors) for each in node]}
    if isinstance(node, Mapping):
        return {"map": [[encoded(k, tensors), encoded(v, tensors)] for k, v in node.items()]}
    if isinstance(node, list):
        return [encoded(each, tensors) for each in node]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{type(node).__name__} is no plain value")


def decoded(node: Any, tensors: Mapping[str, Tensor], device: torch.device | None = None) -> Any:
    """What `encoded` was given; tensors that were not on the CPU go to `device`."""
    if isinstance(node, list):
        return [decoded(each, tensors, device) for each in node]
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "tensor":
        name, order, *elsewhere = value
        tensor = tensors[name].permute([order.index(axis) for axis in range(len(order))])
        return tensor.to(device) if elsewhere and device is not None else tensor
    if kind == "tuple":
        return tuple(decoded(each, tensors, device) for each in value)
    return {decoded(k, tensors, device): decoded(v, tensors, device) for k, v in value}
