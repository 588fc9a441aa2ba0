"""How factors on the units of a network's tensors pass through its operations.

Every unit of an axis (`symbolic_axes`) may have a factor s > 0. A tensor's entries are then
multiplied by s to an exponent, which is one unknown for each place of the axis in the tensor: a
slot. An operation says which exponents of its inputs and outputs must agree: those of a ReLU's
input and output are equal, those of the two factors of a product add up, and a GELU's are 0. The
equations are read off a few entries of each tensor.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor

from sharpcli.landscape.alignment.symbolic_axes import Axis, Value, leaves

__all__ = ["Equations", "Scaled", "Slot", "entries_of", "scaled"]

# Units of an axis at which equations are read: two differ even where one coincides with another
# dimension's, and the last one is beyond the first part of a concatenation.
_UNITS = 2


@dataclass(eq=False, frozen=True)
class Slot:
    """The place of an axis in a dimension of one tensor: row i has the indices of unit i.

    `number` counts slots in the order of the forward pass.
    """

    axis: Axis
    dimension: int
    positions: Tensor
    number: int = field(default_factory=itertools.count().__next__)


@dataclass(frozen=True)
class Scaled:
    """A tensor's shape, its slots, and for each dimension the (slot, unit) pairs at an index."""

    shape: tuple[int, ...]
    slots: tuple[Slot, ...]
    at: tuple[Mapping[int, list[tuple[Slot, int]]], ...]

    def looked_at(self, dimension: int) -> list[int]:
        """A few indices of a dimension, with some of each slot, and the first and the last."""
        found = {0, self.shape[dimension] - 1}
        for slot in self.slots:
            if slot.dimension == dimension:
                units = {*range(min(_UNITS, slot.axis.size)), slot.axis.size - 1}
                found |= {int(slot.positions[unit, place]) for unit in units for place in (0, -1)}
        return sorted(found)

    def indices(self) -> Iterator[tuple[int, ...]]:
        """A few entries of the tensor."""
        return itertools.product(*map(self.looked_at, range(len(self.shape))))

    def factors(self, index: Sequence[int]) -> list[tuple[Slot, int]]:
        """The (slot, unit) pairs whose factors multiply an entry."""
        return [pair for at, i in zip(self.at, index, strict=True) for pair in at.get(i, ())]


def scaled(value: Value) -> Scaled:
    """A traced tensor's slots."""
    slots, at = [], []
    shape = tuple(math.prod(axis.size for axis in dimension) for dimension in value)
    for number, dimension in enumerate(value):
        here: dict[int, list[tuple[Slot, int]]] = {}
        for axis, positions in leaves(dimension) if all(shape) else ():  # nothing in an empty one
            slot = Slot(axis, number, positions)
            slots.append(slot)
            for unit, row in enumerate(positions.tolist()):
                for place in row:
                    here.setdefault(place, []).append((slot, unit))
        at.append(here)
    return Scaled(shape, tuple(slots), tuple(at))


Term = tuple[int, Scaled, Sequence[int]]
"""A coefficient, a tensor, and the index of one of its entries."""


@dataclass
class Equations:
    """Linear equations between the exponents of slots, reduced as they are added.

    `pivots` express a slot by others that are free. Slots of `last` stay free if possible, those
    with the highest rank first: they are the ones that a caller asks for.
    """

    last: Mapping[Slot, int]
    pivots: dict[Slot, dict[Slot, Fraction]] = field(default_factory=dict)
    seen: set[frozenset[tuple[Slot, int]]] = field(default_factory=set)

    def add(self, terms: Iterable[Term]) -> None:
        """The factors of these entries, to their coefficients, multiply to one, unit by unit."""
        rows: dict[tuple[Axis, int], Counter[Slot]] = {}
        for coefficient, tensor, index in terms:
            own = tensor.factors(index)
            if len({(slot.axis, unit) for slot, unit in own}) < len(own):
                return  # an entry on the diagonal, where two exponents cannot be told apart
            for slot, unit in own:
                rows.setdefault((slot.axis, unit), Counter())[slot] += coefficient
        for row in rows.values():
            self._insert({slot: each for slot, each in row.items() if each})

    def zero(self, tensor: Scaled) -> None:
        """All exponents of a tensor are 0."""
        for slot in tensor.slots:
            self._insert({slot: 1})

    def exponents(self, slots: Iterable[Slot]) -> dict[Slot, dict[Slot, Fraction]]:
        """Each slot's exponent as a combination of those of free slots; none if it must be 0."""
        return {slot: self._reduced({slot: Fraction(1)}) for slot in slots}

    def _insert(self, row: Mapping[Slot, int]) -> None:
        key = frozenset(row.items())
        if key in self.seen:
            return
        self.seen.add(key)
        left = self._reduced({slot: Fraction(each) for slot, each in row.items()})
        if left:
            # The newest first: what is expressed by old slots rarely changes again.
            pivot = min(left, key=lambda slot: (self.last.get(slot, 0), -slot.number))
            share = left.pop(pivot)
            self.pivots[pivot] = {slot: -each / share for slot, each in left.items()}

    def _reduced(self, row: dict[Slot, Fraction]) -> dict[Slot, Fraction]:
        """The row in free slots only."""
        found: dict[Slot, Fraction] = {}
        waiting = list(row.items())
        while waiting:
            slot, share = waiting.pop()
            if slot in self.pivots:
                own = self._reduced(self.pivots[slot])
                self.pivots[slot] = own
                waiting += [(other, share * each) for other, each in own.items()]
            else:
                found[slot] = found.get(slot, Fraction(0)) + share
        return {slot: share for slot, share in found.items() if share}


def entries_of(value: Any) -> list[Scaled]:
    """The traced tensors in an argument."""
    if isinstance(value, Scaled):
        return [value]
    return [each for part in value for each in entries_of(part)] if isinstance(value, list) else []
