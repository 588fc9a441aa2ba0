"""Compare what a model's modules hold beside their parameters and buffers, before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["attributes", "changed"]

_SCALARS = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)
_DEEPEST = 3


def attributes(model: nn.Module) -> dict[str, Any]:
    """A comparable value for each plain attribute of each module, and for each tensor's shape.

    Tensors count by their digest, objects of other classes by identity.
    """
    found: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        found[prefix] = type(module).__name__
        for name, value in vars(module).items():
            if name not in _OF_MODULES:
                found[f"{prefix}.{name}".lstrip(".")] = _comparable(value, _DEEPEST)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[name] = tuple(tensor.shape), str(tensor.dtype)
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `after` that were others, or none, before; entries that are gone as None."""
    found = {name: value for name, value in after.items() if before.get(name, ...) != value}
    return found | {name: None for name in before if name not in after}


def _comparable(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor):
        if value.is_meta or value.layout != torch.strided:
            return id(value)
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return tuple(value.shape), str(value.dtype), hashlib.sha256(data.data).hexdigest()
    if isinstance(value, _SCALARS):
        return type(value).__name__, repr(value)
    if isinstance(value, list | tuple) and depth:
        return tuple(_comparable(each, depth - 1) for each in value)
    if isinstance(value, dict) and depth:
        return tuple((repr(key), _comparable(each, depth - 1)) for key, each in value.items())
    return id(value)


# What torch itself keeps in every module; its parameters and buffers are compared as tensors.
_OF_MODULES = {*vars(nn.Module())} | {"_is_full_backward_hook"}
