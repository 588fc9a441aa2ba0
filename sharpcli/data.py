"""A task's data as one collated batch of rows, decoded once and kept on the device."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from .errors import SharpError
from .progress import Progress, silent
from .reliability import carriers_of_columns, doubt

__all__ = ["Batch", "Rows", "read_rows"]

Batch = Any
"""Collated rows: a tensor, or sequences and mappings of tensors and lists, nested as they come."""

# Rows collated at once before they are joined: bounds the memory that unjoined rows take twice.
_CHUNK = 1024
# Rows that are read a second time to see whether a data set gives the same row twice. A random flip
# leaves half of the rows alone: of sixteen it leaves all alone once in 65,536 times.
_PROBE = 16


@dataclass(frozen=True)
class Rows:
    """`count` examples of one split, collated; `total` is how many the split has.

    `carriers` of the rarest column are expected in the sample, as `carriers_of_columns` counts
    them.
    """

    batch: Batch
    count: int
    total: int
    carriers: float = math.inf

    @property
    def sampled(self) -> bool:
        """Whether these are a subset, so that results carry a sampling error."""
        return self.count < self.total

    @property
    def doubt(self) -> str | None:
        """Why no sampling error of these rows can be trusted, as a clause; None where one can."""
        return doubt(self.count, self.total, self.carriers)

    def split(self, size: int) -> Iterator[Batch]:
        """Consecutive batches of at most `size` rows (views, nothing is copied)."""
        for start in range(0, self.count, size):
            yield self.slice(start, min(start + size, self.count))

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` as a batch."""
        return _map(self.batch, lambda leaf: leaf[start:stop])

    def head(self, count: int) -> Rows:
        """The first `count` rows."""
        count = min(count, self.count)
        return Rows(self.slice(0, count), count, count)

    def take(self, indices: Tensor) -> Rows:
        """The rows of `indices`, copied."""
        batch = _map(self.batch, lambda leaf: _pick(leaf, indices))
        return replace(self, batch=batch, count=len(indices))

    def storages(self) -> set[int]:
        """Where the tensors' storages lie, as `Tensor.data_ptr` says it."""
        found: set[int] = set()

        def look(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                found.add(leaf.untyped_storage().data_ptr())
            return leaf

        _map(self.batch, look)
        return found

    def digest(self) -> str:
        """SHA-256 over shapes, dtypes and bytes of all rows."""
        found = hashlib.sha256()

        def add(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                raw = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                found.update(f"{tuple(leaf.shape)}{leaf.dtype}".encode())
                found.update(raw.numpy().data)
            else:
                found.update(repr(leaf).encode())
            return leaf

        _map(self.batch, add)
        return found.hexdigest()

    @property
    def images(self) -> bool:
        """Whether some tensor has four dimensions, as images in batches have."""
        found: list[bool] = []
        _map(self.batch, lambda leaf: found.append(_is_images(leaf)))
        return any(found)

    def channels_last(self) -> Rows:
        """The same rows, images stored channels last."""

        def move(leaf: Any) -> Any:
            return leaf.to(memory_format=torch.channels_last) if _is_images(leaf) else leaf

        return replace(self, batch=_map(self.batch, move))

    def to(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """On `device`, floating-point tensors in `dtype`; integers stay integers."""

        def move(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return leaf.to(device, dtype) if leaf.is_floating_point() else leaf.to(device)

        return replace(self, batch=_map(self.batch, move))


def read_rows(
    dataset: Any,
    *,
    name: str,
    samples: int | None = None,
    seed: int = 0,
    collate: Callable[[list[Any]], Batch] | None = None,
    progress: Progress = silent,
) -> Rows:
    """Read a map-style data set, or a tuple of equally long tensors, whole.

    `samples` rows are drawn without replacement by `seed` where that is fewer than there are.
    Raises `SharpError` naming the split (`name`) where there are no rows, where a row read twice
    differs (random augmentation, a shuffling data set) or where rows cannot be collated.
    """
    tensors = isinstance(dataset, tuple | list) and all(isinstance(t, Tensor) for t in dataset)
    total = len(dataset[0]) if tensors and dataset else len(dataset)
    if total == 0:
        raise SharpError(f"the {name} data are empty", "data() must give at least one example")
    indices = _subset(total, samples, seed)
    if tensors:
        rows = Rows(tuple(dataset), total, total)
        if indices is None:
            return rows
        carried = carriers_of_columns(rows.batch, total, len(indices))
        return replace(rows.take(indices), carriers=carried)
    order = range(total) if indices is None else indices.tolist()
    merge = collate or default_collate
    # A task's own collate may pad, so that only all rows together have one width.
    size = _CHUNK if collate is None else len(order)
    chunks: list[Batch] = []
    probe: list[Any] = []
    for start in range(0, len(order), size):
        items = [dataset[index] for index in order[start : start + size]]
        with _one_batch(name, start, start + len(items)):
            chunks.append(merge(items))
        probe = probe or items[:_PROBE]
        progress(start + len(items), len(order))
    again = [dataset[index] for index in order[: len(probe)]]
    if not _equal(merge(probe), merge(again)):
        raise SharpError(
            f"the {name} data give another row when the same row is read twice",
            "switch off random augmentation and shuffling in data(): the objective must be fixed",
        )
    with _one_batch(name, 0, len(order)):
        rows = Rows(_join(chunks), len(order), total)
    if indices is None:
        return rows
    known = _columns_at_hand(dataset, total)
    # Without columns of all rows the sample's own are looked at: they show what it has few of.
    carried = (
        carriers_of_columns(rows.batch, len(order), len(order))
        if known is None
        else carriers_of_columns(known, total, len(order))
    )
    return replace(rows, carriers=carried)


def join_rows(parts: Sequence[Rows]) -> Rows | None:
    """Rows of several data sets one after the other; None where they do not make a batch."""
    try:
        batch = _join([part.batch for part in parts])
    except (RuntimeError, TypeError, KeyError, ValueError):
        return None
    counts = [part.count for part in parts]
    return Rows(batch, sum(counts), sum(part.total for part in parts))


@contextlib.contextmanager
def _one_batch(name: str, start: int, stop: int) -> Iterator[None]:
    """Say which rows do not fit together."""
    try:
        yield
    except (RuntimeError, TypeError, KeyError) as error:
        raise SharpError(
            f"rows {start} to {stop - 1} of the {name} data do not make a batch: {error}",
            "give rows of equal shape (pad in the data set), or define collate(rows)",
        ) from error


def _columns_at_hand(dataset: Any, total: int) -> Any:
    """Columns of all rows that need no reading: `tensors` and `targets` as data sets have them."""
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


def _map(node: Any, leaf: Callable[[Any], Any]) -> Any:
    """Apply `leaf` to every tensor (and every list of non-tensors) of a collated batch."""
    if isinstance(node, Tensor):
        return leaf(node)
    if isinstance(node, Mapping):
        return {key: _map(value, leaf) for key, value in node.items()}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*(_map(value, leaf) for value in node))
    if isinstance(node, Sequence) and not isinstance(node, str) and _holds_batches(node):
        return type(node)(_map(value, leaf) for value in node)  # type: ignore[call-arg]  # list and tuple take an iterable
    return leaf(node)


def _holds_batches(node: Sequence[Any]) -> bool:
    return any(isinstance(value, Tensor | Mapping | tuple | list) for value in node)


def _is_images(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim == 4 and leaf.is_floating_point()


def _pick(leaf: Any, indices: Tensor) -> Any:
    return leaf[indices.to(leaf.device)] if isinstance(leaf, Tensor) else [leaf[i] for i in indices]


def _join(chunks: list[Batch]) -> Batch:
    """Concatenate batches leaf by leaf."""
    first = chunks[0]
    if len(chunks) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(chunks)
    if isinstance(first, Mapping):
        return {key: _join([chunk[key] for chunk in chunks]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_join(list(parts)) for parts in zip(*chunks, strict=True)))
    if _holds_batches(first):
        return type(first)(_join(list(parts)) for parts in zip(*chunks, strict=True))
    return [row for chunk in chunks for row in chunk]


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left.nan_to_num(), right.nan_to_num())
    if isinstance(left, Mapping):
        return all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, Sequence) and not isinstance(left, str):
        return all(_equal(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)
