"""Read a task's data: sample, decode, and check that it makes a fixed objective."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from sharpcli.errors import SharpError
from sharpcli.objective.collating import makes_slices, read_collated
from sharpcli.objective.decoding import decode, spread_places
from sharpcli.objective.reliability import carriers_of_columns
from sharpcli.objective.rows import Batch, Rows
from sharpcli.objective.trees import bytes_of, join
from sharpcli.runtime.memory import available_memory
from sharpcli.runtime.processes import share
from sharpcli.runtime.progress import Progress, silent
from sharpcli.runtime.spool import is_mapped

__all__ = ["join_rows", "memory_for_data", "read_rows", "seen_rows"]

# Data take this part of the free memory at most, so that the system's cache of files, which holds
# the rest of them, graphs and other programs have room; and this part of a limit set by the user.
_SHARE, _SHARE_OF_LIMIT = 16, 4


def memory_for_data(limit: int | None = None) -> float:
    """Bytes of data to hold in memory, of a `limit` (None: of what is free)."""
    free = available_memory(torch.device("cpu"))
    return free / _SHARE if limit is None else min(free, limit) / _SHARE_OF_LIMIT


def read_rows(
    dataset: Any,
    *,
    name: str,
    samples: int | None = None,
    seed: int = 0,
    collate: Callable[[list[Any]], Batch] | None = None,
    progress: Progress = silent,
    room: float | None = None,
    by_length: bool = False,
) -> Rows:
    """Read the rows of a map-style data set, or of a tuple of equally long tensors, once.

    Numbers keep their dtypes. What does not fit in memory is in a temporary file afterwards.

    Args:
        dataset: the data set or tuple. Tensors are taken as they are, also those of mapped files,
            unless collate changes rows.
        name: the split in messages, as in "train data of task.py".
        samples: how many rows to draw without replacement, if fewer than there are.
        seed: of the draw.
        collate: makes a batch of rows (default: PyTorch's).
        progress: called with the rows read and the number of rows.
        room: bytes of data to hold in memory (default: `memory_for_data`).
        by_length: let collate make each batch, of rows of similar length, if it pads.

    Raises:
        SharpError: if there are no rows, or a row read twice differs (random augmentation, a
            shuffling data set). Tensors of different lengths and rows that cannot be collated are
            refused too, as is a disk that is full.
    """
    room = share(memory_for_data() if room is None else room)
    tensors = isinstance(dataset, tuple | list) and all(isinstance(t, Tensor) for t in dataset)
    if isinstance(dataset, list) and collate is not None:
        tensors = False  # rows of different lengths, which collate pads
    if tensors:
        _check_lengths(dataset, name)
    if tensors and collate is not None and len(dataset) and len(dataset[0]):
        items = TensorDataset(*dataset)
        if not makes_slices(dataset, items, collate, seed):
            dataset, tensors = items, False
    total = len(dataset[0]) if tensors and dataset else len(dataset)
    if total == 0:
        raise SharpError(f"the {name} are empty", "data() must give at least one example")
    indices = _subset(total, samples, seed)
    if tensors:
        rows = Rows(tuple(dataset), total, total)
        rows.mapped = any(map(is_mapped, dataset))
        rows.name, rows.room = name, room
        if indices is None:
            return rows
        carried = carriers_of_columns(rows.columns, total, len(indices))
        rows = rows.take(indices)
        rows.carriers = carried
        return rows
    order = range(total) if indices is None else indices.tolist()
    if collate is None:
        found = decode(dataset, order, default_collate, name=name, limit=room, progress=progress)
        rows = Rows(found.batch, len(order), total)
        rows.mapped, rows.notes = found.spool is not None, found.notes
    else:
        rows = read_collated(
            dataset, order, collate, total, seed, name, progress, room, by_length=by_length
        )
    rows.name, rows.places, rows.room = name, indices, room
    if indices is None:
        return rows
    known = _columns_at_hand(dataset, total)
    if known is not None:
        rows.carriers = carriers_of_columns(known, total, len(order))
    elif rows.sliceable:
        # Without columns of all rows, those of the sample show what it has few of.
        rows.carriers = carriers_of_columns(rows.columns, len(order), len(order))
    return rows


# Rows of a batch that is looked at, and rows from all over a split that a sample is drawn from: the
# whole split where that is small, and a second or two of decoding where it is not.
_LOOKED_AT, _SPREAD_AT_MOST = 1024, 2048
# Of these few batches are made at a time, since the first one alone may be enough.
_SPREAD_BATCH = 64


def seen_rows(
    dataset: Any, rows: Rows, collate: Callable[[list[Any]], Batch] | None = None
) -> tuple[Iterator[Batch], str]:
    """Batches by which a choice for a whole split is made, of which `rows` may be a sample.

    Tensors at hand are looked at whole. Of other data it is rows from all over the split,
    which do not depend on the sample, and then the sample.

    Returns:
        The batches, and which rows they are, in words, "" for all of them.
    """
    own = rows.split(_LOOKED_AT)
    if not rows.sampled:
        return own, ""
    total = len(dataset)
    inner = getattr(dataset, "wrapped", dataset)
    if type(inner) is TensorDataset:
        dataset = inner.tensors
    if isinstance(dataset, tuple | list) and all(isinstance(each, Tensor) for each in dataset):
        total = len(dataset[0])
        if collate is None:
            parts = zip(*(torch.split(each, _LOOKED_AT) for each in dataset), strict=True)
            return itertools.chain(own, parts), ""
        dataset = TensorDataset(*dataset)
    merge = default_collate if collate is None else collate
    places = torch.split(spread_places(total, _SPREAD_AT_MOST), _SPREAD_BATCH)
    spread = (merge([dataset[place] for place in some.tolist()]) for some in places)
    most = min(total, _SPREAD_AT_MOST)
    partly = f"by {most:,} of the {total:,} rows of the {rows.name}, and the sample"
    return itertools.chain(own, spread), partly if total > most else ""


def _check_lengths(tensors: Sequence[Tensor], name: str) -> None:
    """Raise `SharpError` if the tensors do not all have one row for each example."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        said = ", ".join(map(str, shapes[:_SHAPES])) + (", …" if len(shapes) > _SHAPES else "")
        raise SharpError(
            f"the {name} are tensors of shapes {said}, which do not have one row for each example",
            "give tensors of one length; what all examples share belongs into predict() or loss(). "
            "A list of rows of different lengths needs collate(rows)",
        )


_SHAPES = 5  # in a message


def join_rows(parts: Sequence[Rows]) -> Rows | None:
    """Rows of several data sets one after the other; None if they do not make a batch."""
    if not all(part.sliceable and not part.mapped and not part.converts for part in parts):
        return None
    if sum(bytes_of(part.columns) for part in parts) > min(part.room for part in parts):
        return None  # they would be held twice
    try:
        batch = join([part.batch for part in parts])
    except (RuntimeError, TypeError, KeyError, ValueError):
        return None
    counts = [part.count for part in parts]
    return Rows(batch, sum(counts), sum(part.total for part in parts))


def _columns_at_hand(dataset: Any, total: int) -> Any:
    """Columns of all rows that can be had without reading them: `tensors` or `targets`."""
    inner = getattr(dataset, "wrapped", dataset)
    if isinstance(tensors := getattr(inner, "tensors", None), tuple | list):
        return [each for each in tensors if isinstance(each, Tensor) and len(each) == total]
    targets = getattr(inner, "targets", None)
    if isinstance(targets, list) and all(isinstance(each, int | float) for each in targets):
        targets = torch.tensor(targets)
    return targets if isinstance(targets, Tensor) and len(targets) == total else None


def _subset(total: int, samples: int | None, seed: int) -> Tensor | None:
    if samples is None or samples >= total:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:samples].sort().values
