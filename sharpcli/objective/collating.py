"""Read rows that the task's own collate makes into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpcli.objective.collated import CollatedRows, Items
from sharpcli.objective.decoding import PROBE, check_same, decode, one_batch, spread_places
from sharpcli.objective.lengths import length_of, padded_share
from sharpcli.objective.rows import Batch, Rows, pick
from sharpcli.objective.trees import bytes_of, equal, holds_tensors, leaves, map_leaves
from sharpcli.runtime.memory import readable_size
from sharpcli.runtime.progress import Progress
from sharpcli.runtime.spool import PageWindow

__all__ = ["makes_slices", "read_collated"]

# Rows for comparing a task's own collate with slices of a batch, and those alone.
_COLLATED, _COLLATED_ALONE = 32, 4
# Padding to one length is avoided if it makes the rows longer by this factor.
_PADDED_SHARE = 1.1
# Rows between two calls of a progress.
_TOLD = 1024
# Bytes of a number in a list, and of any other value: Python's own.
_NUMBER, _VALUE = 8, 64


def read_collated(
    dataset: Any,
    order: Sequence[int],
    collate: Callable[[list[Any]], Batch],
    total: int,
    seed: int,
    name: str,
    progress: Progress,
    room: float,
    *,
    by_length: bool,
) -> Rows:
    """Read rows with the task's own collate; arguments are as in `read_rows`.

    Slices of one batch of all rows are used as batches if collate makes the same of some rows,
    except for padding; otherwise collate is called for each batch.
    """
    items, lengths, held = [], [], 0
    places = dict.fromkeys(spread_places(len(order)).tolist())  # of rows that are read twice
    spread = []
    window = PageWindow()
    for number, index in enumerate(order, 1):
        item = dataset[index]
        lengths.append(length_of(item))
        size = _size(item)
        held += size
        window.read(size)
        if held <= room:
            items.append(item)
        if number - 1 in places:
            spread.append(item)
        if number % _TOLD == 0 or number == len(order):
            progress(number, len(order))
    first = items[:PROBE] or [dataset[index] for index in order[:PROBE]]
    with one_batch(name, 0, len(first)):
        probe = collate(first)
    check_same(dataset, order[: len(first)], probe, collate, name)
    with one_batch(name, 0, len(order)):
        again = collate(spread)
    check_same(dataset, [order[place] for place in places], again, collate, name)
    if held > room:
        return _too_large(dataset, order, collate, total, seed, name, room, lengths, held)
    with one_batch(name, 0, len(items)):
        batch = collate(items)
    some = _some(len(items), seed)
    alike = _likeness(batch, items, some, collate)
    if alike == _DIFFERENT:
        return CollatedRows(items, collate, total, lengths=lengths if by_length else None)
    if alike == _SAME:
        return Rows(batch, len(items), total)
    padded = CollatedRows([items[i] for i in some], collate, total)
    # The batch of all rows is not kept: a model that takes no other makes it again.
    if by_length and padded_share(lengths) > _PADDED_SHARE:

        def whole() -> Rows:
            return Rows(collate(items), len(items), total, padded=padded)

        return CollatedRows(items, collate, total, lengths=lengths, padded=padded, whole=whole)
    return Rows(batch, len(items), total, padded=padded)


def _too_large(
    dataset: Any,
    order: Sequence[int],
    collate: Callable[[list[Any]], Batch],
    total: int,
    seed: int,
    name: str,
    room: float,
    lengths: Sequence[int],
    held: int,
) -> Rows:
    """Rows that memory does not hold: they are read again for each batch that is made."""
    rows = Items(dataset, order)
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    some = sorted({*_some(len(order), seed), longest})
    few = [rows[index] for index in some]
    alike = _likeness(collate(few), few, range(len(few)), collate)
    objects = any(map(holds_tensors, few))
    if alike == _SAME and not objects:
        found = decode(dataset, order, collate, name=name, limit=room, progress=lambda *_: None)
        own = Rows(found.batch, len(order), total)
        own.mapped, own.notes = found.spool is not None, found.notes
        return own
    padded = CollatedRows(few, collate, total) if alike == _PADDED else None
    made = CollatedRows(rows, collate, total, lengths=lengths, padded=padded)
    made.notes = [
        f"the {name} ({readable_size(held)}) are collated batch by batch into a temporary file, "
        f"since memory should hold {readable_size(room)} of data"
    ]
    return made


def makes_slices(
    columns: Sequence[Tensor], items: Any, collate: Callable[[list[Any]], Batch], seed: int
) -> bool:
    """Whether collate makes of some rows the slices of `columns`, so that it need not be called.

    Args:
        columns: tensors of one length.
        items: their rows, by number.
        collate: makes a batch of a list of rows.
        seed: of the rows that are tried.
    """
    return _likeness(tuple(columns), items, _some(len(items), seed), collate) == _SAME


def _size(item: Any) -> int:
    """About the bytes of a row in memory."""
    found = bytes_of(item)
    for leaf in leaves(item):
        if not isinstance(leaf, Tensor):
            size = getattr(leaf, "nbytes", None)
            many = isinstance(leaf, str | bytes | list | tuple)
            found += _VALUE + (size or (_NUMBER * len(leaf) if many else 0))
    return found


def _some(count: int, seed: int) -> list[int]:
    """Random rows on which collate is tried."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:_COLLATED].tolist()


def _likeness(
    batch: Batch,
    items: Sequence[Any],
    some: Sequence[int],
    collate: Callable[[list[Any]], Batch],
) -> int:
    """How slices of a batch of all items compare with what collate makes of `some` of them."""
    some = list(some)
    single = some[:_COLLATED_ALONE] if len(items) > 1 else []
    subsets: Iterable[list[int]] = [some, some[: -(-len(some) // 3)], *([i] for i in single)]
    return min(
        _alike(_row_slice(batch, len(items), subset), collate([items[i] for i in subset]))
        for subset in subsets
    )


def _row_slice(batch: Batch, count: int, indices: list[int]) -> Batch:
    """The rows of `indices`; None if a leaf does not have one row for each of `count`."""
    for leaf in leaves(batch):
        sized = (isinstance(leaf, Tensor) and leaf.ndim > 0) or isinstance(leaf, list | tuple)
        if not sized or len(leaf) != count:
            return None
    chosen = torch.tensor(indices)
    return map_leaves(batch, lambda leaf: pick(leaf, chosen))


# How a slice of a batch compares with what collate makes of the same rows.
_DIFFERENT, _PADDED, _SAME = range(3)


def _alike(sliced: Any, made: Any) -> int:
    """Compare a slice with collate's batch: same, same except for padding, or different."""
    if isinstance(made, Tensor):
        return _alike_tensors(sliced, made)
    if isinstance(made, Mapping):
        if not isinstance(sliced, Mapping) or list(made) != list(sliced):
            return _DIFFERENT
        return min((_alike(sliced[key], made[key]) for key in made), default=_SAME)
    if isinstance(made, list | tuple):
        if not isinstance(sliced, list | tuple) or len(made) != len(sliced):
            return _DIFFERENT
        return min((_alike(a, b) for a, b in zip(sliced, made, strict=True)), default=_SAME)
    return _SAME if sliced is not None and equal(sliced, made) else _DIFFERENT


def _alike_tensors(sliced: Any, made: Tensor) -> int:
    if not isinstance(sliced, Tensor) or sliced.dtype != made.dtype or sliced.ndim != made.ndim:
        return _DIFFERENT
    if sliced.shape == made.shape:
        return _SAME if equal(sliced, made) else _DIFFERENT
    if len(sliced) != len(made) or any(
        a < b for a, b in zip(sliced.shape, made.shape, strict=True)
    ):
        return _DIFFERENT
    left = sliced[tuple(slice(0, size) for size in made.shape)]
    right = sliced[
        tuple(slice(len_ - size, len_) for len_, size in zip(sliced.shape, made.shape, strict=True))
    ]
    return _PADDED if equal(left, made) or equal(right, made) else _DIFFERENT
