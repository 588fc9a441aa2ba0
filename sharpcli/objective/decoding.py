"""Decode each row of a data set once, into memory or, if they are many, into a temporary file."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sharpcli.errors import SharpError
from sharpcli.objective.rows import pick
from sharpcli.objective.trees import bytes_of, equal, join, map_leaves, paired_leaves
from sharpcli.runtime.memory import readable_size
from sharpcli.runtime.processes import neighbours
from sharpcli.runtime.progress import Progress
from sharpcli.runtime.spool import PageWindow, Spool

__all__ = [
    "CHUNK",
    "PROBE",
    "Decoded",
    "check_same",
    "decode",
    "one_batch",
    "spread_places",
]

Batch = Any

# Rows collated at once: bounds the memory that they take twice. Of large rows fewer.
CHUNK, _CHUNK_BYTES = 1024, 32 * 2**20
# Rows that are read twice to check that a data set returns the same row. A random flip leaves half
# of the rows unchanged, and all of sixteen once in 65,536 times.
PROBE = 16
# Rows from all over the data that are read twice too: an augmentation of one row in twenty is found
# in nine of ten runs.
_SPREAD = 32
# Seconds of decoding that are worth the start of workers, and the most of them.
_WORTH_WORKERS, _MOST_WORKERS = 10.0, 16
# Batches that each worker has ready at the most, in shared memory, and the part of it to use.
_READY, _SHARED_PART = 2, 2
_SHARED = Path("/dev/shm")


@dataclass
class Decoded:
    """All rows as one batch; `spool` is the file that holds it, None in memory."""

    batch: Batch
    spool: Spool | None
    notes: list[str] = field(default_factory=list)


def decode(
    dataset: Any,
    order: Sequence[int],
    merge: Callable[[list[Any]], Batch],
    *,
    name: str,
    limit: float,
    progress: Progress,
) -> Decoded:
    """Decode the rows `order` of a map-style data set, each once, into one batch.

    Numbers keep the dtypes that `merge` gives them. Columns of more than `limit` bytes in all go
    into a temporary file. Slow data sets are decoded by worker processes.
    A `SharpError` says that the rows do not make a batch, or that rows read twice differ.
    """
    columns: _Columns | None = None
    rows = _Reader(dataset, order, merge, name)
    done, window = 0, PageWindow()  # the data set may read a mapped file too
    for batch, count in rows:
        with one_batch(name, 0, len(order), ValueError):
            if columns is None:
                size = bytes_of(batch) / count * len(order)
                columns = _Columns(batch, len(order), Spool() if size > limit else None)
            columns.write(batch, done)
        done += count
        window.read(bytes_of(batch))
        progress(done, len(order))
    assert columns is not None
    check_same(dataset, order[:PROBE], rows.probe, merge, name)
    if not columns.promoted:  # also rows that a worker has read
        places = spread_places(len(order))
        check_same(dataset, [order[place] for place in places], columns.at(places), merge, name)
    notes = list(rows.notes)
    if columns.spool is not None:
        notes.append(
            f"the {name}: {readable_size(columns.spool.bytes)} in a temporary file in "
            f"{columns.spool.folder}, since memory should hold {readable_size(limit)} of data"
        )
    return Decoded(columns.batch, columns.spool, notes)


def spread_places(count: int, most: int = _SPREAD) -> Tensor:
    """The places of up to `most` rows from all over `count` rows, the first and the last too."""
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64).long()


def check_same(
    dataset: Any,
    indices: Sequence[int],
    batch: Batch,
    merge: Callable[[list[Any]], Batch],
    name: str,
) -> None:
    """Raise `SharpError` unless the rows read again make the same batch."""
    if not equal(batch, merge([dataset[index] for index in indices])):
        raise SharpError(
            f"the {name} give another row when the same row is read twice",
            "switch off random augmentation and shuffling in data(): the objective must be fixed",
        )


class _Columns:
    """Columns of `count` rows that are filled batch by batch."""

    def __init__(self, first: Batch, count: int, spool: Spool | None) -> None:
        self.spool, self._count, self.promoted = spool, count, False
        self._example = map_leaves(first, lambda leaf: leaf[:1])
        self.batch = map_leaves(first, self._column)

    def write(self, batch: Batch, start: int) -> None:
        """Write a batch's rows from row `start` on; an error of `join` says what differs."""
        example = join([self._example, map_leaves(batch, lambda leaf: leaf[:1])])
        if any(a.dtype != b.dtype for a, b in paired_leaves(self.batch, example) if _is(a)):
            self._promote(example)
        for column, leaf in paired_leaves(self.batch, batch):
            if _is(column):
                column[start : start + len(leaf)] = leaf
            else:
                column.extend(leaf)

    def at(self, places: Tensor) -> Batch:
        """The rows at these places."""
        return map_leaves(self.batch, lambda leaf: pick(leaf, places))

    def _column(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return []
        shape = (self._count, *leaf.shape[1:])
        if self.spool is None:
            return torch.empty(shape, dtype=leaf.dtype)
        return self.spool.empty(shape, leaf.dtype)

    def _promote(self, example: Batch) -> None:
        """Columns in the dtypes of an example, such as of floats after integers."""
        self.promoted = True
        kinds = iter([leaf for _, leaf in paired_leaves(self.batch, example)])

        def promoted(column: Any) -> Any:
            kind = next(kinds)
            if not _is(column) or column.dtype == kind.dtype:
                return column
            return self._column(column[:1].to(kind.dtype)).copy_(column)

        self.batch = map_leaves(self.batch, promoted)
        self._example = map_leaves(example, lambda leaf: leaf[:1])


def _is(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


class _Reader:
    """Batches of a data set's rows in order, with their counts, by workers if that pays."""

    def __init__(
        self,
        dataset: Any,
        order: Sequence[int],
        merge: Callable[[list[Any]], Batch],
        name: str,
    ) -> None:
        self._dataset, self._order, self._merge, self._name = dataset, order, merge, name
        self.workers, self.failed = 0, False
        self.probe: Batch = None
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        began, count = time.perf_counter(), len(self._order)
        items = [self._dataset[index] for index in self._order[:PROBE]]
        with one_batch(self._name, 0, len(items)):
            self.probe = self._merge(items)
        each = bytes_of(self.probe) / len(items)
        size = max(PROBE, min(CHUNK, int(_CHUNK_BYTES / max(each, 1))))
        done = 0
        while done < count:
            stop = min(done + size, count)
            items += [self._dataset[index] for index in self._order[done + len(items) : stop]]
            with one_batch(self._name, done, stop):
                batch = self._merge(items)
            yield batch, stop - done
            done, items = stop, []
            left = (time.perf_counter() - began) / done * (count - done)
            if not self.workers and left > _WORTH_WORKERS:
                self.workers = _workers(each * size)
                for batch, rows in self._by_workers(done, size) if self.workers else ():
                    yield batch, rows
                    done += rows

    def _by_workers(self, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Batches from row `start` on by worker processes, up to an error in one of them."""
        chunks = [list(self._order[at : at + size]) for at in range(start, len(self._order), size)]
        loader: DataLoader[Any] = DataLoader(
            self._dataset,
            batch_sampler=chunks,
            num_workers=self.workers,
            collate_fn=self._merge,
            prefetch_factor=_READY,
            multiprocessing_context="fork",
            generator=torch.Generator(),
        )
        with warnings.catch_warnings():
            # Of forks of processes with threads: a worker runs none of PyTorch's.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            batches = iter(loader)
        for chunk in chunks:
            try:
                batch = next(batches)
            except Exception as error:  # reading goes on here, which shows the data set's own error
                self.failed = True
                self.notes.append(
                    f"the {self._name} were read by one process: a worker failed "
                    f"({type(error).__name__})"
                )
                return
            yield batch, len(chunk)


def _workers(chunk_bytes: float) -> int:
    """How many worker processes can decode; 0 if forking is not safe or would not help."""
    busy = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if busy or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(own // neighbours(), _MOST_WORKERS)
    if _SHARED.is_dir():
        room = shutil.disk_usage(_SHARED).free / _SHARED_PART
        most = min(most, int(room / (_READY * max(chunk_bytes, 1.0))))
    return most if most > 1 else 0


@contextlib.contextmanager
def one_batch(name: str, start: int, stop: int, *more: type[Exception]) -> Iterator[None]:
    """Say which rows cannot be collated, if PyTorch's errors or `more` say that they cannot."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (RuntimeError, TypeError, KeyError, *more)):
            raise
        hint = "give rows of equal shape (pad in the data set), or define collate(rows)"
        # Images, texts and objects: a plain TypeError of torch's.
        if "batch must contain" in str(error):
            hint = "make tensors of what a row holds in the data set, or define collate(rows)"
        raise SharpError(
            f"rows {start} to {stop - 1} of the {name} do not make a batch: {error}", hint
        ) from error
