"""Which places of a network's tensors move together: the axes of a traced graph, and their algebra.

A tensor's dimension is a product of axes, outermost first (a flattened image is channels x height x
width). An axis is whole, or a concatenation of dimensions. Operations `unify` dimensions that have
to be permuted alike and `pin` those that cannot be permuted. All of it errs on the safe side: what
does not fit together is pinned.
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
    """`size` places that can be permuted as one, unless they are pinned.

    `same` is set where the axis has turned out to be a product of others (or another), `parts`
    where it is a concatenation.
    """

    size: int
    pinned: bool = False
    same: Dimension | None = None
    parts: tuple[Dimension, ...] | None = None


Dimension = tuple[Axis, ...]
Value = tuple[Dimension, ...]
"""A traced tensor: its dimensions."""


def fresh(shape: Sequence[int]) -> Value:
    """A tensor whose axes are free and its own, such as a parameter or a constant fill."""
    return tuple((Axis(each),) for each in shape)


def pinned(shape: Sequence[int]) -> Value:
    """A tensor whose places have a meaning, such as an input."""
    return tuple((Axis(each, True),) for each in shape)


def size(dimension: Sequence[Axis]) -> int:
    """How many places a dimension has."""
    return math.prod(axis.size for axis in dimension)


def expand(dimension: Sequence[Axis]) -> Dimension:
    """The dimension in its present axes; axes of one place are left out."""
    found: list[Axis] = []
    for axis in dimension:
        if axis.same is not None:
            found += expand(axis.same)
        elif axis.size != 1:
            found.append(axis)
    return tuple(found)


def pin(dimension: Sequence[Axis]) -> bool:
    """Let no place of the dimension move. Whether any could until now."""
    moved = False
    for axis in expand(dimension):
        if not axis.pinned:
            moved = axis.pinned = True
            for part in axis.parts or ():
                pin(part)
            axis.parts = None
    return moved


def concatenated(dimensions: Sequence[Dimension]) -> Dimension:
    """The dimension in which these follow each other."""
    kept = tuple(dimension for dimension in dimensions if size(dimension))
    if len(kept) == 1:
        return kept[0]
    return (Axis(sum(map(size, kept)), parts=kept),)


def cut(dimension: Dimension, sizes: Sequence[int]) -> list[Dimension]:
    """The dimension in consecutive pieces of these sizes."""
    pieces: list[Dimension] = [(Axis(each),) for each in sizes]
    unify(dimension, concatenated(pieces))
    return pieces


def unify(left: Dimension, right: Dimension) -> None:
    """Let two dimensions of one size be permuted alike from now on."""
    left, right = expand(left), expand(right)
    if all(axis.pinned for axis in left) or all(axis.pinned for axis in right):
        pin(left)
        pin(right)
        return
    # What lies behind each place at which either product can be cut: one divides the next.
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
    """Dimensions unified from the last on; those of one place go with any."""
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
    """Make a product of the first axis that has a cut inside; whether there was one."""
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
    # What was unified before this pair may have changed it: the same axis can occur twice.
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
    """Make a concatenation of the part in which `place` lies; False where it is a product."""
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
    """Each axis that can be permuted, with its places in the dimension (axis size, repeats).

    Row i holds the places that belong to unit i, in an order that is the same for all units.
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
