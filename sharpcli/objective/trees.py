"""Nested batches: tensors and lists in sequences, mappings and objects, visited leaf by leaf."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "bytes_of",
    "equal",
    "equal_tensors",
    "holds_tensors",
    "join",
    "leaves",
    "map_leaves",
    "named_leaves",
    "paired_leaves",
]


def named_leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each leaf that `map_leaves` visits, in its order, with its name for messages."""
    if isinstance(node, Tensor):
        yield path or "the inputs", node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from named_leaves(value, f"{path}['{key}']" if path else f"'{key}'")
    elif _is_nested(node):
        names = ["the inputs", "the targets"] if len(node) == 2 and not path else []
        for index, value in enumerate(node):
            name = names[index] if names else f"{path}[{index}]" if path else f"item {index}"
            yield from named_leaves(value, name)
    elif holds_tensors(node):
        for key, value in vars(node).items():
            yield from named_leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path or "the inputs", node


def leaves(batch: Any) -> Iterator[Any]:
    """Each leaf of a batch."""
    return (leaf for _, leaf in named_leaves(batch))


def map_leaves(node: Any, leaf: Callable[[Any], Any]) -> Any:
    """Apply `leaf` to every tensor (and every list of non-tensors) of a collated batch.

    Mappings become dictionaries. PyTorch's own pytree treats mappings other than `dict`, and
    unregistered objects, as leaves, and descends into lists of a row's texts.
    """
    if isinstance(node, Tensor):
        return leaf(node)
    if isinstance(node, Mapping):
        return {key: map_leaves(value, leaf) for key, value in node.items()}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*(map_leaves(value, leaf) for value in node))
    if _is_nested(node):
        return type(node)(map_leaves(value, leaf) for value in node)
    if holds_tensors(node):
        made = copy.copy(node)
        for key, value in vars(node).items():
            object.__setattr__(made, key, map_leaves(value, leaf))  # dataclasses may be frozen
        return made
    return leaf(node)


def holds_tensors(node: Any) -> bool:
    """Whether this is an object of a class defined by the task, with tensors as attributes."""
    attributes = getattr(node, "__dict__", None)
    return isinstance(attributes, dict) and any(isinstance(v, Tensor) for v in attributes.values())


def _is_nested(node: Any) -> bool:
    """Whether this is a sequence of batches, not of single rows' contents."""
    return (isinstance(node, tuple) and hasattr(node, "_fields")) or (
        isinstance(node, Sequence)
        and not isinstance(node, str)
        and any(isinstance(value, Tensor | Mapping | tuple | list) for value in node)
    )


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
    if _is_nested(first):
        return type(first)(join(list(parts)) for parts in zip(*chunks, strict=True))
    return [row for chunk in chunks for row in chunk]


def paired_leaves(first: Any, other: Any) -> Iterator[tuple[Any, Any]]:
    """The leaves of two batches that `join` can join, in the first one's order."""
    if isinstance(first, Mapping):
        for key, value in first.items():
            yield from paired_leaves(value, other[key])
    elif not isinstance(first, Tensor) and _is_nested(first):
        for one, two in zip(first, other, strict=True):
            yield from paired_leaves(one, two)
    else:
        yield first, other


def bytes_of(batch: Any) -> int:
    """The bytes of a batch's tensors."""
    return sum(leaf.nbytes for leaf in leaves(batch) if isinstance(leaf, Tensor))


def equal_tensors(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape are equal; torch.equal takes no sparse ones."""
    if one.layout != other.layout:
        return False
    if one.layout == torch.strided:
        return torch.equal(one, other)
    one, other = (each.to_sparse(layout=torch.sparse_coo).coalesce() for each in (one, other))
    return torch.equal(one.indices(), other.indices()) and torch.equal(one.values(), other.values())


def equal(left: Any, right: Any) -> bool:
    """Whether two batches hold the same values; NaN equals NaN."""
    if isinstance(left, Tensor):
        return torch.equal(left.nan_to_num(), right.nan_to_num())
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, Sequence) and not isinstance(left, str):
        return len(left) == len(right) and all(map(equal, left, right))
    if holds_tensors(left):
        return type(left) is type(right) and equal(vars(left), vars(right))
    return bool(left == right)
