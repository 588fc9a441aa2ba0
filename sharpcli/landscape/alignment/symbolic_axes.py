"""The axes of a traced graph and their algebra: which indices of tensors move together.

A tensor's dimension is a product of axes, outermost first (a flattened image is channels x height x
width). An axis is atomic, or a concatenation of dimensions. Operations `unify` dimensions that have
to be permuted alike and `pin` those that cannot be permuted. If dimensions do not fit together,
they are pinned, which is always safe.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Axis",
    "Dimension",
    "Value",
    "broadcast",
    "concatenated",
    "cut",
    "expand",
    "fresh",
    "leaves",
    "pin",
    "pinned",
    "size",
    "unify",
]


@dataclass(eq=False, slots=True)
class Axis:
    """`size` indices that can be permuted unless they are pinned.

    `same` is set if the axis turned out to equal another one or a product of others, `parts` if it
    is a concatenation.
    """

    size: int
    pinned: bool = False
    same: Dimension | None = None
    parts: tuple[Dimension, ...] | None = None


Dimension = tuple[Axis, ...]
Value = tuple[Dimension, ...]
"""A traced tensor: its dimensions."""


def fresh(shape: Sequence[int]) -> Value:
    """A tensor with new free axes, such as a parameter or a constant fill."""
    return tuple((Axis(each),) for each in shape)


def pinned(shape: Sequence[int]) -> Value:
    """A tensor with pinned axes, such as an input, whose indices have a meaning."""
    return tuple((Axis(each, True),) for each in shape)


def size(dimension: Sequence[Axis]) -> int:
    """The number of indices of a dimension."""
    return math.prod(axis.size for axis in dimension)


def expand(dimension: Sequence[Axis]) -> Dimension:
    """The dimension in its present axes, without axes of size one."""
    found: list[Axis] = []
    for axis in dimension:
        if axis.same is not None:
            found += expand(axis.same)
        elif axis.size != 1:
            found.append(axis)
    return tuple(found)


def pin(dimension: Sequence[Axis]) -> bool:
    """Pin every index of this dimension. Return True if any was free before."""
    moved = False
    for axis in expand(dimension):
        if not axis.pinned:
            moved = axis.pinned = True
            for part in axis.parts or ():
                pin(part)
            axis.parts = None
    return moved


def concatenated(dimensions: Sequence[Dimension]) -> Dimension:
    """The concatenation of dimensions."""
    kept = tuple(dimension for dimension in dimensions if size(dimension))
    if len(kept) == 1:
        return kept[0]
    return (Axis(sum(map(size, kept)), parts=kept),)


def cut(dimension: Dimension, sizes: Sequence[int]) -> list[Dimension]:
    """Cut the dimension into consecutive pieces of these sizes."""
    pieces: list[Dimension] = [(Axis(each),) for each in sizes]
    unify(dimension, concatenated(pieces))
    return pieces


def unify(left: Dimension, right: Dimension) -> None:
    """Require that two dimensions of equal size are permuted alike."""
    left, right = expand(left), expand(right)
    if all(axis.pinned for axis in left) or all(axis.pinned for axis in right):
        pin(left)
        pin(right)
        return
    # Sizes of the inner part at each possible cut of either product; each has to divide the next.
    inner = sorted({*_behind(left), *_behind(right)})
    if any(large % small for small, large in itertools.pairwise(inner)):
        pin(left)
        pin(right)
    elif _split_first(left, inner) or _split_first(right, inner):
        unify(left, right)
    else:
        for one, other in zip(left, right, strict=True):
            _unify_axes(one, other)


def broadcast(values: Sequence[Value]) -> Value:
    """Unify the dimensions of values from the last one on; size one matches any size."""
    rank = max((len(value) for value in values), default=0)
    merged: list[Dimension] = []
    for place in range(-rank, 0):
        found = [v[place] for v in values if len(v) >= -place and size(v[place]) != 1]
        for other in found[1:]:
            unify(found[0], other)
        merged.append(found[0] if found else ())
    return tuple(merged)


def _behind(dimension: Sequence[Axis]) -> list[int]:
    sizes = [axis.size for axis in reversed(dimension)]
    return list(itertools.accumulate(sizes, lambda behind, each: behind * each, initial=1))


def _split_first(dimension: Dimension, inner: Sequence[int]) -> bool:
    """Split the first axis with a cut inside into a product; return whether there was one."""
    behind = size(dimension)
    for axis in dimension:
        above, behind = behind, behind // axis.size
        cuts = [each for each in inner if behind <= each <= above]
        if len(cuts) > 2:
            if axis.parts is not None:
                pin((axis,))
            sizes = [large // small for small, large in itertools.pairwise(cuts)]
            axis.same = tuple(Axis(each, axis.pinned) for each in reversed(sizes))
            axis.parts = None
            return True
    return False


def _unify_axes(one: Axis, other: Axis) -> None:
    # An earlier pair may have changed this one, since an axis can occur twice.
    if one.same is not None or other.same is not None:
        if expand((one,)) != expand((other,)):
            unify((one,), (other,))
        return
    if one is other:
        return
    if one.pinned or other.pinned:
        pin((one,))
        pin((other,))
        return
    if other.parts is None:
        other.same = (one,)
    elif one.parts is None:
        one.same = (other,)
    else:
        _unify_concatenations(one, other)


def _unify_concatenations(one: Axis, other: Axis) -> None:
    while True:
        lefts, rights = _flat_parts(one), _flat_parts(other)
        missing = sorted({*_starts(lefts)} ^ {*_starts(rights)})
        if not missing:
            break
        lacking = rights if missing[0] in _starts(lefts) else lefts
        if not _cut_at(lacking, missing[0]):
            pin((one,))
            pin((other,))
            return
    for left, right in zip(lefts, rights, strict=True):
        unify(left, right)
    if one.pinned or other.pinned:
        pin((one,))
        pin((other,))
    elif one.same is None and other.same is None:
        other.same = (one,)


def _flat_parts(axis: Axis) -> list[Dimension]:
    flat: list[Dimension] = []
    for part in axis.parts or ():
        whole = expand(part)
        if len(whole) == 1 and whole[0].parts is not None:
            flat += _flat_parts(whole[0])
        else:
            flat.append(whole)
    return flat


def _starts(parts: Sequence[Dimension]) -> list[int]:
    return list(itertools.accumulate(map(size, parts), initial=0))


def _cut_at(parts: Sequence[Dimension], place: int) -> bool:
    """Split the part around `place` into a concatenation; False if it is a product."""
    for part, start in zip(parts, _starts(parts), strict=False):
        if start < place < start + size(part):
            if len(part) != 1:
                return False
            (axis,) = part
            first = place - start
            axis.parts = (
                (Axis(first, axis.pinned),),
                (Axis(axis.size - first, axis.pinned),),
            )
            return True
    return False


def leaves(dimension: Dimension) -> Iterator[tuple[Axis, Tensor]]:
    """Each axis that can be permuted, with its indices in the dimension (axis size, repeats).

    Row i has the indices of unit i, in the same order for all units.
    """
    whole = expand(dimension)
    places = torch.arange(size(whole)).reshape([axis.size for axis in whole])
    for number, axis in enumerate(whole):
        rows = places.movedim(number, 0).reshape(axis.size, -1)
        if axis.parts is None:
            if not axis.pinned:
                yield axis, rows
            continue
        parts = _flat_parts(axis)
        for part, start in zip(parts, _starts(parts), strict=False):
            for leaf, inside in leaves(part):
                yield leaf, rows[start + inside].reshape(leaf.size, -1)
