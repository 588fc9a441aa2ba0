"""A task's data as one collated batch of rows, decoded once, on the device or in a mapped file."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpcli.objective.reliability import doubt
from sharpcli.objective.trees import bytes_of, leaves, map_leaves, named_leaves
from sharpcli.runtime.memory import available_memory
from sharpcli.runtime.spool import HUGE_PAGE, PageWindow, Spool

__all__ = ["Batch", "Move", "Rows", "bytes_hashed", "digest_of", "neighbours", "pick"]

Batch = Any
"""Collated rows: a tensor, or any nesting of sequences and mappings of tensors and lists."""


# Huge pages of a file from which rows are picked together, rows that are looked at together, and
# bytes that are hashed together.
_PICKED, _LOOKED_AT, _HASHED = 16, 4096, 2**24
# Rows taken out of a file are in a file again if they are more than this part of `room`: several
# such samples are in use at a time.
_TAKEN_SHARE = 8
# A GPU holds data of up to this part of its memory, in the run's dtype.
_DEVICE_SHARE = 4


class Rows:
    """`count` examples of one split as one collated `batch`; each leaf has a row for each example.

    The split has `total` examples. With a `fixed_batch`, an example's loss is only defined in its
    batch of that many consecutive rows. If the task's own collate pads, `padded` are a few
    uncollated rows, to check whether padding matters. `carriers` is how many rows of the rarest
    column are expected in a sample (`carriers_of_columns`). `name` is the split in messages.
    `places` are the rows' numbers in the data, unless they are all rows in order. `notes` say how
    the rows are kept. They are `mapped` if their numbers are in a file, and a conversion of more
    than `room` bytes is done batch by batch.
    """

    name = "data"
    places: Tensor | None = None
    mapped = False
    room = math.inf
    notes: Sequence[str] = ()

    def __init__(
        self,
        batch: Batch,
        count: int,
        total: int,
        *,
        fixed_batch: int | None = None,
        padded: Rows | None = None,
        carriers: float = math.inf,
    ) -> None:
        self.count, self.total = count, total
        self.fixed_batch, self.padded, self.carriers = fixed_batch, padded, carriers
        self._batch = batch
        self._late: tuple[Callable[[Any], Any], ...] = ()
        self._window = PageWindow()

    @property
    def batch(self) -> Batch:
        """All rows as one batch."""
        return self._converted_late(self._batch)

    @property
    def columns(self) -> Batch:
        """All rows as one batch, in the dtypes and on the device where they are kept."""
        return self._batch

    @property
    def bytes(self) -> int:
        """The bytes of memory that the rows take."""
        return 0 if self.mapped else bytes_of(self._batch)

    @property
    def converts(self) -> bool:
        """Whether each batch is converted when it is taken."""
        return bool(self._late)

    def _converted_late(self, batch: Batch) -> Batch:
        """Convert a batch, if rows are converted only when taken."""
        return map_leaves(batch, self._leaf) if self._late else batch

    def _leaf(self, leaf: Any) -> Any:
        for convert in self._late:
            leaf = convert(leaf)
        return leaf

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
        batch = map_leaves(self._batch, lambda leaf: leaf[start:stop])
        if self.mapped:
            self._window.read(bytes_of(batch))
        return self._converted_late(batch)

    def visits(self, first: int, last: int, most: int) -> list[tuple[int, int]]:
        """The batches of a pass, of at most `most` rows, as ranges of `visited` rows."""
        return [(start, min(start + most, last)) for start in range(first, last, most)]

    @property
    def visited(self) -> Tensor | None:
        """The order in which a pass visits the rows; None for their own order."""
        return None

    def visit(self, start: int, stop: int) -> Batch:
        """The visited rows `start` to `stop` as a batch."""
        return self.slice(start, stop)

    def head(self, count: int) -> Rows:
        """The first `count` rows; the first batch if batches are fixed."""
        count = min(self.fixed_batch or count, self.count)
        return Rows(self.slice(0, count), count, count, fixed_batch=self.fixed_batch)

    def typical(self, count: int) -> Rows:
        """A few rows by which the memory of a batch can be judged."""
        return self.head(count)

    def take(self, indices: Tensor) -> Rows:
        """The rows of `indices`, copied. Many rows of a file are copied into another file."""
        rows = copy.copy(self)
        size = bytes_of(self._batch) / max(self.count, 1) * len(indices)
        spool = Spool() if self.mapped and size > self.room / _TAKEN_SHARE else None
        rows._batch, rows.mapped = self._picked(indices, spool), spool is not None
        rows.count, rows.padded = len(indices), None
        rows.places = indices.cpu() if self.places is None else self.places[indices.cpu()]
        return rows

    def batch_of(self, indices: Tensor) -> Batch:
        """The batch of the rows of `indices`, copied. Cheaper than `take`, which keeps places."""
        batch = self._batch
        if (
            type(batch) is tuple
            and not self._late
            and not self.mapped
            and all(type(leaf) is Tensor and leaf.is_contiguous() for leaf in batch)
        ):  # in half the time for a small batch: no search for leaves, no general indexing
            return tuple([leaf.index_select(0, indices.to(leaf.device)) for leaf in batch])
        return self._converted_late(self._picked(indices))

    def _picked(self, indices: Tensor, spool: Spool | None = None) -> Batch:
        """The rows of `indices` as they are kept; of a file a few at a time."""
        if not self.mapped:
            return map_leaves(self._batch, lambda leaf: pick(leaf, indices))

        def picked(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return pick(leaf, indices)
            shape, start = (len(indices), *leaf.shape[1:]), 0
            if spool is None:
                found = torch.empty(shape, dtype=leaf.dtype)
            else:
                found = spool.empty(shape, leaf.dtype)
            for some in neighbours(leaf, indices.cpu()):
                found[start : start + len(some)] = leaf[some]
                start += len(some)
                self._window.read(0, _PICKED, HUGE_PAGE)
            return found

        return map_leaves(self._batch, picked)

    def not_finite(self, row: int | None = None) -> str | None:
        """The first NaN or infinity in the data, in words; None if all data are finite.

        It checks one `row`, or all. Cost: a look at every number.
        """
        first, last = (0, self.count) if row is None else (row, row + 1)
        step = _LOOKED_AT if self.mapped or self._late else max(last - first, 1)
        found = (self._not_finite(at, min(at + step, last)) for at in range(first, last, step))
        return next((each for each in found if each), None)

    def _not_finite(self, first: int, last: int) -> str | None:
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
        tensors = (leaf for leaf in leaves(self._batch) if isinstance(leaf, Tensor))
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def digest(self) -> str:
        """SHA-256 over shapes, dtypes and bytes of all rows, a few rows at a time."""
        found = hashlib.sha256()
        for leaf in leaves(self._batch):
            if not isinstance(leaf, Tensor) or not leaf.ndim or not len(leaf):
                self._add(found, leaf)
                continue
            found.update(f"{tuple(leaf.shape)}{self._leaf(leaf[:1]).dtype}".encode())
            for part in torch.split(leaf, max(1, _HASHED * len(leaf) // max(leaf.nbytes, 1))):
                found.update(bytes_hashed(self._leaf(part)))
                if self.mapped:
                    self._window.read(part.nbytes)
        return found.hexdigest()

    def _add(self, found: Any, leaf: Any) -> None:
        leaf = self._leaf(leaf)
        if isinstance(leaf, Tensor):
            found.update(f"{tuple(leaf.shape)}{leaf.dtype}".encode())
            found.update(bytes_hashed(leaf))
        else:
            found.update(repr(leaf).encode())

    @property
    def images(self) -> bool:
        """Whether some tensor has four dimensions, as images in batches have."""
        return any(map(_is_images, leaves(self.slice(0, 1))))

    def channels_last(self) -> Rows:
        """The same rows with images stored channels last."""
        return self._later(_channels_last) if self._kept else self._converted(_channels_last)

    def to(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """The rows on `device`, with floating-point tensors in `dtype`; integers stay integers.

        Large data, and data in a file, stay what and where they are: batches are converted.
        """
        move = Move(device, dtype)
        fits = _copied(self._batch, move) <= self._room_on(device)
        if fits and self.mapped and device.type != "cpu" and not self._late:
            return self._moved(move)
        if self._kept or not fits:
            return self._later(move)
        return self._converted(move)

    def as_taken(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """As `to`, but each batch is converted when taken, so that rows are not held twice."""
        return self._later(Move(device, dtype))

    def _moved(self, move: Move) -> Rows:
        """The rows of a file on another device, without all of them in memory."""

        def moved(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            there = torch.empty(leaf.shape, dtype=move(leaf[:0]).dtype, device=move.device)
            for start in range(0, len(leaf), _LOOKED_AT):
                part = leaf[start : start + _LOOKED_AT]
                there[start : start + len(part)] = part.to(move.device)
                self._window.read(part.nbytes)
            return there

        rows = copy.copy(self)
        rows._batch, rows.mapped = map_leaves(self._batch, moved), False
        rows.padded = None if self.padded is None else self.padded._converted(move)
        return rows

    @property
    def _kept(self) -> bool:
        """Whether rows are converted when taken only."""
        return bool(self._late) or self.mapped

    def _room_on(self, device: torch.device) -> float:
        if device.type == "cuda":
            return available_memory(device) / _DEVICE_SHARE
        return self.room

    def _later(self, leaf: Callable[[Any], Any]) -> Rows:
        """The same rows with `leaf` applied to the tensors of each batch."""
        if self._late[-1:] == (leaf,):
            return self
        rows = copy.copy(self)
        rows._late = (*self._late, leaf)
        rows.padded = None if self.padded is None else self.padded._converted(leaf)
        return rows

    def _converted(self, leaf: Callable[[Any], Any]) -> Rows:
        """The same rows with `leaf` applied to every tensor."""
        rows = copy.copy(self)
        rows._batch, rows._late = map_leaves(self.batch, leaf), ()
        rows.padded = None if self.padded is None else self.padded._converted(leaf)
        return rows


@dataclass(frozen=True)
class Move:
    """Moves a leaf to a device, and to the dtype if it is a floating-point tensor."""

    device: torch.device
    dtype: torch.dtype

    def __call__(self, leaf: Any) -> Any:
        """The leaf there."""
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_floating_point():
            return leaf.to(self.device, self.dtype)
        return leaf.to(self.device)


def _copied(batch: Batch, move: Move) -> int:
    """The bytes of the tensors that a move would copy."""
    found = 0
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor):
            dtype = move.dtype if leaf.is_floating_point() else leaf.dtype
            if dtype != leaf.dtype or move.device.type != leaf.device.type:
                found += leaf.numel() * dtype.itemsize
    return found


def _channels_last(leaf: Any) -> Any:
    return leaf.to(memory_format=torch.channels_last) if _is_images(leaf) else leaf


def bytes_hashed(leaf: Tensor) -> Any:
    """A tensor's bytes in the order of its rows."""
    return leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of tensors, in their order."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        whole = tensor.coalesce() if tensor.is_sparse else None
        for part in [tensor] if whole is None else [whole.indices(), whole.values()]:
            found.update(bytes_hashed(part.resolve_conj().resolve_neg()))
    return found.hexdigest()


def _is_images(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim == 4 and leaf.is_floating_point()


def neighbours(leaf: Tensor, indices: Tensor) -> list[Tensor]:
    """The indices in parts, each of rows in at most `_PICKED` stretches of a file, or so."""
    pages = indices * (leaf.stride(0) * leaf.element_size()) // HUGE_PAGE
    turns = (pages.diff() != 0).cumsum(0) // _PICKED
    _, counts = torch.unique_consecutive(
        torch.cat([turns.new_zeros(min(1, len(indices))), turns]), return_counts=True
    )
    return list(torch.split(indices, counts.tolist()))


def pick(leaf: Any, indices: Tensor) -> Any:
    """The rows of `indices` of one leaf."""
    return leaf[indices.to(leaf.device)] if isinstance(leaf, Tensor) else [leaf[i] for i in indices]
