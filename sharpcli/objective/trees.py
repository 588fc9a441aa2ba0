"""Nested batches: tensors and lists in sequences, mappings and objects, walked leaf by leaf."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["equal", "holds_tensors", "join", "map_leaves", "named_leaves"]


def named_leaves(batch: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each leaf of a batch with what it is called."""
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from named_leaves(value, f"{path}['{key}']" if path else f"'{key}'")
    elif isinstance(batch, list | tuple):
        names = ["the inputs", "the targets"] if len(batch) == 2 and not path else []
        for index, value in enumerate(batch):
            name = names[index] if names else f"{path}[{index}]" if path else f"item {index}"
            yield from named_leaves(value, name)
    else:
        yield path or "the inputs", batch


def map_leaves(node: Any, leaf: Callable[[Any], Any]) -> Any:
    """Apply `leaf` to every tensor (and every list of non-tensors) of a collated batch."""
    if isinstance(node, Tensor):
        return leaf(node)
    if isinstance(node, Mapping):
        return {key: map_leaves(value, leaf) for key, value in node.items()}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*(map_leaves(value, leaf) for value in node))
    if isinstance(node, Sequence) and not isinstance(node, str) and _holds_batches(node):
        return type(node)(map_leaves(value, leaf) for value in node)  # type: ignore[call-arg]  # list and tuple take an iterable
    if holds_tensors(node):
        made = copy.copy(node)
        for key, value in vars(node).items():
            object.__setattr__(made, key, map_leaves(value, leaf))  # dataclasses may be frozen
        return made
    return leaf(node)


def holds_tensors(node: Any) -> bool:
    """Whether this is an object of a class of the task's own, with tensors for attributes."""
    attributes = getattr(node, "__dict__", None)
    return isinstance(attributes, dict) and any(isinstance(v, Tensor) for v in attributes.values())


def _holds_batches(node: Sequence[Any]) -> bool:
    return any(isinstance(value, Tensor | Mapping | tuple | list) for value in node)


def join(chunks: list[Any]) -> Any:
    """Concatenate batches leaf by leaf."""
    first = chunks[0]
    if len(chunks) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(chunks)
    if isinstance(first, Mapping):
        return {key: join([chunk[key] for chunk in chunks]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(join(list(parts)) for parts in zip(*chunks, strict=True)))
    if _holds_batches(first):
        return type(first)(join(list(parts)) for parts in zip(*chunks, strict=True))
    return [row for chunk in chunks for row in chunk]


def equal(left: Any, right: Any) -> bool:
    """Whether two batches hold the same, NaN where the other has it."""
    if isinstance(left, Tensor):
        return torch.equal(left.nan_to_num(), right.nan_to_num())
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, Sequence) and not isinstance(left, str):
        return len(left) == len(right) and all(map(equal, left, right))
    if holds_tensors(left):
        return type(left) is type(right) and equal(vars(left), vars(right))
    return bool(left == right)
