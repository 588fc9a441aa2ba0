"""A task's data as one collated batch of rows, decoded once and kept on the device."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpcli.objective.reliability import doubt
from sharpcli.objective.trees import leaves, map_leaves, named_leaves

__all__ = ["Batch", "CollatedRows", "Rows", "pick"]

Batch = Any
"""Collated rows: a tensor, or any nesting of sequences and mappings of tensors and lists."""


class Rows:
    """`count` examples of one split as one collated `batch`; each leaf has a row for each example.

    The split has `total` examples. With a `fixed_batch`, an example's loss is only defined in its
    batch of that many consecutive rows. If the task's own collate pads, `padded` are a few
    uncollated rows, to check whether padding matters. `carriers` is how many rows of the rarest
    column are expected in a sample (`carriers_of_columns`). `name` is the split in messages.
    `places` are the rows' numbers in the data, unless they are all rows in order.
    """

    name = "data"
    places: Tensor | None = None

    def __init__(
        self,
        batch: Batch,
        count: int,
        total: int,
        *,
        fixed_batch: int | None = None,
        padded: CollatedRows | None = None,
        carriers: float = math.inf,
    ) -> None:
        self.count, self.total = count, total
        self.fixed_batch, self.padded, self.carriers = fixed_batch, padded, carriers
        self._batch = batch
        self._on_slice: Callable[[Any], Any] | None = None

    @property
    def batch(self) -> Batch:
        """All rows as one batch."""
        return self._late(self._batch)

    def _late(self, batch: Batch) -> Batch:
        """Convert a batch, if rows are converted only when taken."""
        return batch if self._on_slice is None else map_leaves(batch, self._on_slice)

    @property
    def sampled(self) -> bool:
        """Whether these rows are a subset, so that results have a sampling error."""
        return self.count < self.total

    @property
    def sliceable(self) -> bool:
        """Whether slicing the batch gives the batch of these rows."""
        return True

    @property
    def doubt(self) -> str | None:
        """Why no sampling error of these rows can be trusted, as a clause; None if it can."""
        return doubt(self.count, self.total, self.carriers)

    def split(self, size: int) -> Iterator[Batch]:
        """Consecutive batches of at most `size` rows (views if rows can be sliced)."""
        for start in range(0, self.count, size):
            yield self.slice(start, min(start + size, self.count))

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` as a batch."""
        return self._late(map_leaves(self._batch, lambda leaf: leaf[start:stop]))

    def head(self, count: int) -> Rows:
        """The first `count` rows; the first batch if batches are fixed."""
        count = min(self.fixed_batch or count, self.count)
        return Rows(self.slice(0, count), count, count, fixed_batch=self.fixed_batch)

    def take(self, indices: Tensor) -> Rows:
        """The rows of `indices`, copied."""
        rows = copy.copy(self)
        rows._batch = self._late(map_leaves(self._batch, lambda leaf: pick(leaf, indices)))
        rows.count, rows.padded, rows._on_slice = len(indices), None, None
        rows.places = indices.cpu() if self.places is None else self.places[indices.cpu()]
        return rows

    def batch_of(self, indices: Tensor) -> Batch:
        """The batch of the rows of `indices`, copied. Cheaper than `take`, which keeps places."""
        batch = self._batch
        if (
            type(batch) is tuple
            and self._on_slice is None
            and all(type(leaf) is Tensor and leaf.is_contiguous() for leaf in batch)
        ):  # in half the time for a small batch: no search for leaves, no general indexing
            return tuple([leaf.index_select(0, indices.to(leaf.device)) for leaf in batch])
        return self._late(map_leaves(batch, lambda leaf: pick(leaf, indices)))

    def not_finite(self, row: int | None = None) -> str | None:
        """The first NaN or infinity in the data, in words; None if all data are finite.

        It checks one `row`, or all. Cost: a look at every number.
        """
        first, last = (0, self.count) if row is None else (row, row + 1)
        for path, leaf in named_leaves(self.slice(first, last)):
            numbers = isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
            if not numbers or bool(torch.isfinite(leaf).all()):
                continue
            place = (~torch.isfinite(leaf)).nonzero()[0].tolist()
            what = "NaN" if bool(torch.isnan(leaf[tuple(place)])) else "an infinity"
            # A leaf without a row for each example can come from a task's own collate.
            by_row = len(leaf) == last - first
            where = f"row {self.number(first + place[0])} of " if by_row else ""
            return f"the {self.name} hold {what} in {where}{path}"
        return None

    def number(self, row: int) -> int:
        """The number of one of these rows in the data, from 0."""
        return row if self.places is None else int(self.places[row])

    def with_fixed_batch(self, size: int | None) -> Rows:
        """The same rows, with losses defined on consecutive batches of `size` rows."""
        rows = copy.copy(self)
        rows.fixed_batch = size
        return rows

    def storages(self) -> set[int]:
        """The addresses of the tensors' storages (`Tensor.data_ptr`)."""
        tensors = (leaf for leaf in leaves(self.batch) if isinstance(leaf, Tensor))
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def digest(self) -> str:
        """SHA-256 over shapes, dtypes and bytes of all rows."""
        found = hashlib.sha256()
        for leaf in leaves(self.batch):
            if isinstance(leaf, Tensor):
                raw = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                found.update(f"{tuple(leaf.shape)}{leaf.dtype}".encode())
                found.update(raw.numpy().data)
            else:
                found.update(repr(leaf).encode())
        return found.hexdigest()

    @property
    def images(self) -> bool:
        """Whether some tensor has four dimensions, as images in batches have."""
        return any(map(_is_images, leaves(self.batch)))

    def channels_last(self) -> Rows:
        """The same rows with images stored channels last."""

        def move(leaf: Any) -> Any:
            return leaf.to(memory_format=torch.channels_last) if _is_images(leaf) else leaf

        return self._converted(move)

    def to(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """The rows on `device`, with floating-point tensors in `dtype`; integers stay integers."""
        if self._on_slice is not None:
            return self.as_taken(device, dtype)
        return self._converted(functools.partial(_moved, device=device, dtype=dtype))

    def as_taken(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """As `to`, but each batch is converted when taken, so that rows are not held twice."""
        rows = copy.copy(self)
        rows._on_slice = functools.partial(_moved, device=device, dtype=dtype)
        return rows

    def _converted(self, leaf: Callable[[Any], Any]) -> Rows:
        """The same rows with `leaf` applied to every tensor."""
        rows = copy.copy(self)
        rows._batch, rows._on_slice = map_leaves(self.batch, leaf), None
        rows.padded = None if self.padded is None else self.padded._converted(leaf)
        return rows


class CollatedRows(Rows):
    """Rows whose batches must each be made by the task's own collate, because slices would differ.

    Batches stay on the device until other ones are taken, at most the split once.
    """

    def __init__(
        self, items: Sequence[Any], collate: Callable[[list[Any]], Batch], total: int
    ) -> None:
        super().__init__(None, len(items), total)
        self._items, self._collate = items, collate
        self._convert: tuple[Callable[[Any], Any], ...] = ()
        self._made: dict[tuple[int, int], Batch] = {}

    @property
    def batch(self) -> Batch:
        """All rows as one batch."""
        return self.slice(0, self.count)

    @property
    def sliceable(self) -> bool:
        """Always False: only collate makes a batch of these rows."""
        return False

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` as a batch."""
        if (start, stop) not in self._made:
            held = sum(last - first for first, last in self._made)
            if held + stop - start > self.count:
                self._made.clear()
            batch = self._collate(list(self._items[start:stop]))
            for leaf in self._convert:
                batch = map_leaves(batch, leaf)
            self._made[start, stop] = batch
        return self._made[start, stop]

    def head(self, count: int) -> Rows:
        """The first `count` rows; the first batch if batches are fixed."""
        rows = self._of(self._items[: min(self.fixed_batch or count, self.count)])
        rows.total = rows.count
        return rows

    def take(self, indices: Tensor) -> Rows:
        """The uncollated rows of `indices`."""
        rows = self._of([self._items[index] for index in indices.tolist()])
        rows.places = indices.cpu() if self.places is None else self.places[indices.cpu()]
        return rows

    def batch_of(self, indices: Tensor) -> Batch:
        """The batch of the rows of `indices`, made by collate."""
        return self.take(indices).batch

    def with_fixed_batch(self, size: int | None) -> Rows:
        """The same rows, with losses defined on consecutive batches of `size` rows."""
        rows = self._of(self._items)
        rows.fixed_batch = size
        return rows

    def _of(self, items: Sequence[Any]) -> CollatedRows:
        rows = copy.copy(self)
        rows._items, rows.count, rows._made = items, len(items), {}
        return rows

    def _converted(self, leaf: Callable[[Any], Any]) -> CollatedRows:
        rows = self._of(self._items)
        rows._convert = (*self._convert, leaf)
        return rows

    def as_taken(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """As `to`: every batch is made when taken anyway."""
        return self.to(device, dtype)


def _moved(leaf: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A leaf on a device, in the dtype if it is a floating-point tensor."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.to(device, dtype) if leaf.is_floating_point() else leaf.to(device)


def _is_images(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim == 4 and leaf.is_floating_point()


def pick(leaf: Any, indices: Tensor) -> Any:
    """The rows of `indices` of one leaf."""
    return leaf[indices.to(leaf.device)] if isinstance(leaf, Tensor) else [leaf[i] for i in indices]
