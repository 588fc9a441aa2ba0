"""Read all of a task's data: sample, collate, and check that it makes a fixed objective."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from sharpcli.errors import SharpError
from sharpcli.objective.reliability import carriers_of_columns
from sharpcli.objective.rows import Batch, CollatedRows, Rows, pick
from sharpcli.objective.trees import equal, join, leaves, map_leaves
from sharpcli.runtime.progress import Progress, silent

__all__ = ["join_rows", "read_rows"]

# Rows collated at once before they are joined: bounds the memory that unjoined rows take twice.
_CHUNK = 1024
# Rows that are read twice to check that a data set returns the same row. A random flip leaves half
# of the rows unchanged, and all of sixteen once in 65,536 times.
_PROBE = 16
# Rows for comparing a task's own collate with slices of the full batch, and those alone.
_COLLATED, _COLLATED_ALONE = 32, 4


def read_rows(
    dataset: Any,
    *,
    name: str,
    samples: int | None = None,
    seed: int = 0,
    collate: Callable[[list[Any]], Batch] | None = None,
    progress: Progress = silent,
) -> Rows:
    """Read all rows of a map-style data set, or of a tuple of equally long tensors.

    Args:
        dataset: the data set or tuple.
        name: the split in messages, as in "train data of task.py".
        samples: how many rows to draw without replacement, if fewer than there are.
        seed: of the draw.
        collate: makes a batch of rows (default: PyTorch's).
        progress: called with the rows read and the number of rows.

    Raises:
        SharpError: if there are no rows, or a row read twice differs (random augmentation, a
            shuffling data set). Tensors of different lengths and rows that cannot be collated are
            refused too.
    """
    tensors = isinstance(dataset, tuple | list) and all(isinstance(t, Tensor) for t in dataset)
    if tensors:
        _check_lengths(dataset, name)
    total = len(dataset[0]) if tensors and dataset else len(dataset)
    if total == 0:
        raise SharpError(f"the {name} are empty", "data() must give at least one example")
    indices = _subset(total, samples, seed)
    if tensors:
        rows = Rows(tuple(dataset), total, total)
        rows.name = name
        if indices is None:
            return rows
        carried = carriers_of_columns(rows.batch, total, len(indices))
        rows = rows.take(indices)
        rows.carriers = carried
        return rows
    order = range(total) if indices is None else indices.tolist()
    merge = collate or default_collate
    # A task's own collate may pad, so that only all rows together have one width.
    size = _CHUNK if collate is None else len(order)
    chunks: list[Batch] = []
    items: list[Any] = []
    probe: list[Any] = []
    for start in range(0, len(order), size):
        items = [dataset[index] for index in order[start : start + size]]
        with _one_batch(name, start, start + len(items)):
            chunks.append(merge(items))
        probe = probe or items[:_PROBE]
        progress(start + len(items), len(order))
    again = [dataset[index] for index in order[: len(probe)]]
    if not equal(merge(probe), merge(again)):
        raise SharpError(
            f"the {name} give another row when the same row is read twice",
            "switch off random augmentation and shuffling in data(): the objective must be fixed",
        )
    if collate is not None:
        rows = _as_collated(chunks[0], items, collate, total, seed)
    else:
        with _one_batch(name, 0, len(order)):
            rows = Rows(join(chunks), len(order), total)
    rows.name, rows.places = name, indices
    if indices is None:
        return rows
    known = _columns_at_hand(dataset, total)
    if known is not None:
        rows.carriers = carriers_of_columns(known, total, len(order))
    elif rows.sliceable:
        # Without columns of all rows, those of the sample show what it has few of.
        rows.carriers = carriers_of_columns(rows.batch, len(order), len(order))
    return rows


def _check_lengths(tensors: Sequence[Tensor], name: str) -> None:
    """Raise `SharpError` if the tensors do not all have one row for each example."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise SharpError(
            f"the {name} are tensors of shapes {', '.join(map(str, shapes))}, which do not "
            "have one row for each example",
            "give tensors of one length; what all examples share belongs into predict() or loss()",
        )


def _as_collated(
    batch: Batch,
    items: list[Any],
    collate: Callable[[list[Any]], Batch],
    total: int,
    seed: int,
) -> Rows:
    """Rows that a task's own collate has made into a batch.

    Slices of the batch are used as its rows only if collate makes the same of some rows, except for
    padding; otherwise collate is called for each batch.
    """
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(items), generator=generator)[:_COLLATED].tolist()
    single = some[:_COLLATED_ALONE] if len(items) > 1 else []
    subsets = [some, some[: -(-len(some) // 3)], *([index] for index in single)]
    alike = min(
        _alike(_row_slice(batch, len(items), subset), collate([items[i] for i in subset]))
        for subset in subsets
    )
    if alike == _DIFFERENT:
        return CollatedRows(items, collate, total)
    padded = CollatedRows([items[i] for i in some], collate, total) if alike == _PADDED else None
    return Rows(batch, len(items), total, padded=padded)


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


def join_rows(parts: Sequence[Rows]) -> Rows | None:
    """Rows of several data sets one after the other; None if they do not make a batch."""
    if not all(part.sliceable for part in parts):
        return None
    try:
        batch = join([part.batch for part in parts])
    except (RuntimeError, TypeError, KeyError, ValueError):
        return None
    counts = [part.count for part in parts]
    return Rows(batch, sum(counts), sum(part.total for part in parts))


@contextlib.contextmanager
def _one_batch(name: str, start: int, stop: int) -> Iterator[None]:
    """Say which rows cannot be collated."""
    try:
        yield
    except (RuntimeError, TypeError, KeyError) as error:
        hint = "give rows of equal shape (pad in the data set), or define collate(rows)"
        # Images, texts and objects: a plain TypeError of torch's.
        if "batch must contain" in str(error):
            hint = "make tensors of what a row holds in the data set, or define collate(rows)"
        raise SharpError(
            f"rows {start} to {stop - 1} of the {name} do not make a batch: {error}", hint
        ) from error


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
