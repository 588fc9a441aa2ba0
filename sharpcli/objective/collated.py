"""Rows whose batches the task's own collate makes, one by one."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpcli.objective.lengths import ranges
from sharpcli.objective.rows import Batch, Move, Rows, bytes_hashed
from sharpcli.objective.trees import bytes_of, leaves, map_leaves
from sharpcli.runtime.spool import PageWindow, Spool

__all__ = ["CollatedRows", "Items"]

# Rows that are collated together for a digest, which must not depend on batches.
_DIGESTED = 256


class Items(Sequence[Any]):
    """Rows of a data set that are read again at each use, because memory does not hold them."""

    def __init__(self, dataset: Any, order: Sequence[int]) -> None:
        self._dataset, self._order, self._window = dataset, order, PageWindow()

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Items(self._dataset, self._order[index])
        item = self._dataset[self._order[index]]
        self._window.read(bytes_of(item))
        return item

    def of(self, indices: Sequence[int]) -> Items:
        """The rows of `indices`, read when used."""
        return Items(self._dataset, [self._order[index] for index in indices])


class CollatedRows(Rows):
    """Rows whose batches must each be made by the task's own collate.

    That is where slices of a batch are no batches, where rows differ much in length, and where the
    data do not fit in memory. A pass visits rows by length, so that batches are padded little.
    Batches stay until other ones are taken, at most the split once: in memory up to `room` bytes,
    beyond that in a temporary file. `whole` makes rows that are all padded to one length, for
    models that take no other.
    """

    def __init__(
        self,
        items: Sequence[Any],
        collate: Callable[[list[Any]], Batch],
        total: int,
        *,
        lengths: Sequence[int] | None = None,
        padded: Rows | None = None,
        whole: Callable[[], Rows] | None = None,
    ) -> None:
        super().__init__(None, len(items), total, padded=padded)
        self._items, self._collate, self._whole = items, collate, whole
        self._lengths = lengths
        self._convert: tuple[Callable[[Any], Any], ...] = ()
        self._forget()

    def _forget(self) -> None:
        self._made: dict[tuple[bool, int, int], Batch] = {}
        self._held = 0
        self._spool: Spool | None = None

    @property
    def batch(self) -> Batch:
        """All rows as one batch."""
        return self.slice(0, self.count)

    @property
    def columns(self) -> Batch:
        """All rows as one batch."""
        return self.batch

    @property
    def bytes(self) -> int:
        """The bytes of memory that the rows and their batches take."""
        own = 0 if isinstance(self._items, Items) else sum(map(bytes_of, self._items))
        return own + min(self._held, int(min(self.room, 2**62)))

    @property
    def converts(self) -> bool:
        """Always False: batches are kept as they are used."""
        return False

    @property
    def sliceable(self) -> bool:
        """Always False: only collate makes a batch of these rows."""
        return False

    @property
    def only_padded(self) -> bool:
        """Whether collate only pads, and memory holds all rows padded to one length."""
        return self._whole is not None

    def padded_to_one_length(self) -> Rows:
        """The same rows, all padded to one length."""
        assert self._whole is not None
        rows = self._whole()
        for name in ("name", "places", "room", "carriers"):
            setattr(rows, name, getattr(self, name))
        return rows

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` as a batch."""
        return self._kept_batch((False, start, stop), range(start, stop))

    def visits(self, first: int, last: int, most: int) -> list[tuple[int, int]]:
        """The batches of a pass, of at most `most` rows, as ranges of `visited` rows."""
        order = self._order
        if order is None or self._lengths is None:
            return super().visits(first, last, most)
        lengths = [self._lengths[index] for index in order[first:last]]
        found = ranges(lengths, most, self._typical_length)
        return [(first + start, first + stop) for start, stop in found]

    @property
    def visited(self) -> Tensor | None:
        """The order in which a pass visits the rows: the longest first."""
        return None if self._order is None else torch.tensor(self._order)

    def visit(self, start: int, stop: int) -> Batch:
        """The visited rows `start` to `stop` as a batch."""
        if self._order is None:
            return self.slice(start, stop)
        return self._kept_batch((True, start, stop), self._order[start:stop])

    @functools.cached_property
    def _order(self) -> list[int] | None:
        """The rows by length; None if all have one."""
        lengths = self._lengths
        if lengths is None or len(set(lengths)) < 2:
            return None
        return sorted(range(len(lengths)), key=lambda index: -lengths[index])

    @functools.cached_property
    def _typical_length(self) -> float:
        """The length by which batches are sized: long, but not that of the few longest."""
        if self._order is None or self._lengths is None:
            return math.inf
        return self._lengths[self._order[len(self._order) // 4]]

    def typical(self, count: int) -> Rows:
        """A few rows by which the memory of a batch can be judged, of a typical length."""
        if self._order is None or self.fixed_batch is not None:
            return self.head(count)
        middle = min(len(self._order) // 4, max(0, self.count - count))
        return self.take(torch.tensor(self._order[middle : middle + count]))

    def shortest(self, count: int) -> Rows:
        """The shortest rows."""
        order = self._order or range(self.count)
        return self.take(torch.tensor(list(order[-count:])))

    def _kept_batch(self, key: tuple[bool, int, int], indices: Sequence[int]) -> Batch:
        if key not in self._made:
            held = sum(last - first for _, first, last in self._made)
            if held + len(indices) > self.count:
                self._forget()
            self._made[key] = self._stored(self._make(indices))
        batch = self._made[key]
        if self._spool is not None:
            self._window.read(bytes_of(batch))
        return batch

    def _make(self, indices: Sequence[int]) -> Batch:
        batch = self._collate([self._items[index] for index in indices])
        for leaf in self._convert:
            batch = map_leaves(batch, leaf)
        return batch

    def _stored(self, batch: Batch) -> Batch:
        """A batch in memory, or in the file if memory holds enough of them."""
        self._held += bytes_of(batch)
        if self._held <= self.room or any(_on_device(leaf) for leaf in leaves(batch)):
            return batch
        spool = self._spool = self._spool or Spool()
        return map_leaves(
            batch, lambda leaf: spool.copy(leaf) if isinstance(leaf, Tensor) else leaf
        )

    def head(self, count: int) -> Rows:
        """The first `count` rows; the first batch if batches are fixed."""
        rows = self._of(range(min(self.fixed_batch or count, self.count)))
        rows.total = rows.count
        return rows

    def take(self, indices: Tensor) -> Rows:
        """The uncollated rows of `indices`."""
        rows = self._of(indices.tolist())
        rows.places = indices.cpu() if self.places is None else self.places[indices.cpu()]
        return rows

    def batch_of(self, indices: Tensor) -> Batch:
        """The batch of the rows of `indices`, made by collate."""
        return self._make(indices.tolist())

    def with_fixed_batch(self, size: int | None) -> Rows:
        """The same rows, with losses defined on consecutive batches of `size` rows."""
        rows = self._of(None)
        rows.fixed_batch = size
        return rows

    def digest(self) -> str:
        """SHA-256 over shapes, dtypes and bytes of all rows, a few rows at a time."""
        found = hashlib.sha256()
        for start in range(0, self.count, _DIGESTED):
            for leaf in leaves(self._make(range(start, min(start + _DIGESTED, self.count)))):
                if isinstance(leaf, Tensor):
                    found.update(f"{tuple(leaf.shape)}{leaf.dtype}".encode())
                    found.update(bytes_hashed(leaf))
                else:
                    found.update(repr(leaf).encode())
        return found.hexdigest()

    def _of(self, indices: Sequence[int] | None) -> CollatedRows:
        """A copy with the rows of `indices`, or with all."""
        rows = copy.copy(self)
        for name in ("_order", "_typical_length"):
            rows.__dict__.pop(name, None)
        rows._forget()
        if indices is None:
            return rows
        own = self._items
        rows._items = own.of(indices) if isinstance(own, Items) else [own[i] for i in indices]
        rows._lengths = None if self._lengths is None else [self._lengths[i] for i in indices]
        rows.count, rows.padded, rows._whole = len(indices), None, None
        return rows

    def _converted(self, leaf: Callable[[Any], Any]) -> CollatedRows:
        if self._convert[-1:] == (leaf,):
            return self
        rows = self._of(None)
        rows._convert = (*self._convert, leaf)
        rows.padded = None if self.padded is None else self.padded._converted(leaf)
        return rows

    def to(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """The rows on `device`, with floating-point tensors in `dtype`; integers stay integers."""
        return self._converted(Move(device, dtype))

    def as_taken(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """As `to`: every batch is made when taken anyway."""
        return self.to(device, dtype)


def _on_device(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.device.type != "cpu"
