"""The tensors in a model's outputs, in any container."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["replaced", "tensors_of"]


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of outputs: direct, in tuples, in mappings, in objects' fields."""
    found: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _walk(outputs, look)
    return found


def replaced(outputs: Any, tensors: list[Tensor]) -> Any:
    """The outputs with the tensors of `tensors_of` replaced by others; the rest is shared."""
    rest = iter(tensors)
    return _walk(outputs, lambda _: next(rest))


def _walk(node: Any, visit: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(node, Tensor):
        return visit(node) if node.is_floating_point() else node
    if isinstance(node, Mapping):
        changed = copy.copy(node)
        for key, value in node.items():
            changed[key] = _walk(value, visit)  # type: ignore[index]  # outputs are mutable mappings
        return changed
    if isinstance(node, tuple | list):
        parts = [_walk(value, visit) for value in node]
        return type(node)(*parts) if hasattr(node, "_fields") else type(node)(parts)
    if type(node).__module__ != "builtins" and hasattr(node, "__dict__"):
        changed = copy.copy(node)
        for key, value in vars(node).items():
            # Bypasses the checks of frozen dataclasses, since the copy is ours.
            object.__setattr__(changed, key, _walk(value, visit))
        return changed
    return node
