"""A task's data as one collated batch of rows, decoded once and kept on the device."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from sharpcli.errors import SharpError
from sharpcli.objective.reliability import carriers_of_columns, doubt
from sharpcli.runtime.progress import Progress, silent

__all__ = ["Batch", "CollatedRows", "Rows", "join_rows", "read_rows"]

Batch = Any
"""Collated rows: a tensor, or sequences and mappings of tensors and lists, nested as they come."""

# Rows collated at once before they are joined: bounds the memory that unjoined rows take twice.
_CHUNK = 1024
# Rows that are read a second time to see whether a data set gives the same row twice. A random flip
# leaves half of the rows alone: of sixteen it leaves all alone once in 65,536 times.
_PROBE = 16
# Rows that a task's own collate is compared on with slices of all rows' batch, and those alone.
_COLLATED, _COLLATED_ALONE = 32, 4


class Rows:
    """`count` examples of one split as one collated `batch`: each leaf has a row for each of them.

    `total` is how many examples the split has. Where `fixed_batch` is given, an example's loss is
    only defined in its batch: the consecutive ones of so many rows. Where the task's own collate
    pads, `padded` are a few rows that are still to be collated, to see whether padding matters.
    `carriers` of the rarest column are expected in a sample, as `carriers_of_columns` counts them.
    `name` is what messages call the split, and `places` are its rows' numbers in the data, where
    they are not all of them in order.
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
        """A batch, converted where rows are converted as they are taken."""
        return batch if self._on_slice is None else _map(batch, self._on_slice)

    @property
    def sampled(self) -> bool:
        """Whether these are a subset, so that results carry a sampling error."""
        return self.count < self.total

    @property
    def sliceable(self) -> bool:
        """Whether some rows of the batch are the batch of these rows."""
        return True

    @property
    def doubt(self) -> str | None:
        """Why no sampling error of these rows can be trusted, as a clause; None where one can."""
        return doubt(self.count, self.total, self.carriers)

    def split(self, size: int) -> Iterator[Batch]:
        """Consecutive batches of at most `size` rows (views where rows can be sliced)."""
        for start in range(0, self.count, size):
            yield self.slice(start, min(start + size, self.count))

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` as a batch."""
        return self._late(_map(self._batch, lambda leaf: leaf[start:stop]))

    def head(self, count: int) -> Rows:
        """The first `count` rows; the first batch where batches are fixed."""
        count = min(self.fixed_batch or count, self.count)
        return Rows(self.slice(0, count), count, count, fixed_batch=self.fixed_batch)

    def take(self, indices: Tensor) -> Rows:
        """The rows of `indices`, copied."""
        rows = copy.copy(self)
        rows._batch = self._late(_map(self._batch, lambda leaf: _pick(leaf, indices)))
        rows.count, rows.padded, rows._on_slice = len(indices), None, None
        rows.places = indices.cpu() if self.places is None else self.places[indices.cpu()]
        return rows

    def not_finite(self, row: int | None = None) -> str | None:
        """The first NaN or infinity in the data, in words; None where all is finite.

        Looked for in one `row`, or in all. Cost: a look at every number.
        """
        first, last = (0, self.count) if row is None else (row, row + 1)
        for path, leaf in _leaves(self.slice(first, last)):
            numbers = isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
            if not numbers or bool(torch.isfinite(leaf).all()):
                continue
            place = (~torch.isfinite(leaf)).nonzero()[0].tolist()
            what = "NaN" if bool(torch.isnan(leaf[tuple(place)])) else "an infinity"
            # A leaf that is not a row for each example, as one of a task's own collate.
            by_row = len(leaf) == last - first
            where = f"row {self.number(first + place[0])} of " if by_row else ""
            return f"the {self.name} hold {what} in {where}{path}"
        return None

    def number(self, row: int) -> int:
        """The number in the data, from 0, of one of these rows."""
        return row if self.places is None else int(self.places[row])

    def with_fixed_batch(self, size: int | None) -> Rows:
        """The same rows, whose losses are those of consecutive batches of `size` rows."""
        rows = copy.copy(self)
        rows.fixed_batch = size
        return rows

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

        return self._converted(move)

    def to(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """On `device`, floating-point tensors in `dtype`; integers stay integers."""
        if self._on_slice is not None:
            return self.as_taken(device, dtype)
        return self._converted(functools.partial(_moved, device=device, dtype=dtype))

    def as_taken(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """As `to`, each batch when it is taken: all rows together are not held twice."""
        rows = copy.copy(self)
        rows._on_slice = functools.partial(_moved, device=device, dtype=dtype)
        return rows

    def _converted(self, leaf: Callable[[Any], Any]) -> Rows:
        """The same rows with `leaf` applied to every tensor."""
        rows = copy.copy(self)
        rows._batch, rows._on_slice = _map(self.batch, leaf), None
        rows.padded = None if self.padded is None else self.padded._converted(leaf)
        return rows


class CollatedRows(Rows):
    """Rows of which every batch is made by the task's own collate, as no slice of one would be.

    Batches are kept on the device until others are asked for, at most the split once.
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
        """Whether some rows of the batch are the batch of these rows: not here."""
        return False

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` as a batch."""
        if (start, stop) not in self._made:
            held = sum(last - first for first, last in self._made)
            if held + stop - start > self.count:
                self._made.clear()
            batch = self._collate(list(self._items[start:stop]))
            for leaf in self._convert:
                batch = _map(batch, leaf)
            self._made[start, stop] = batch
        return self._made[start, stop]

    def head(self, count: int) -> Rows:
        """The first `count` rows; the first batch where batches are fixed."""
        rows = self._of(self._items[: min(self.fixed_batch or count, self.count)])
        rows.total = rows.count
        return rows

    def take(self, indices: Tensor) -> Rows:
        """The rows of `indices`, to be collated."""
        rows = self._of([self._items[index] for index in indices.tolist()])
        rows.places = indices.cpu() if self.places is None else self.places[indices.cpu()]
        return rows

    def with_fixed_batch(self, size: int | None) -> Rows:
        """The same rows, whose losses are those of consecutive batches of `size` rows."""
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
        """As `to`: every batch is made when it is taken here."""
        return self.to(device, dtype)


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
    Raises `SharpError` with what messages call the split (`name`, as in "train data of task.py")
    where there are no rows, where a row read twice differs (random augmentation, a shuffling data
    set) or where rows cannot be collated.
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
    if not _equal(merge(probe), merge(again)):
        raise SharpError(
            f"the {name} give another row when the same row is read twice",
            "switch off random augmentation and shuffling in data(): the objective must be fixed",
        )
    if collate is not None:
        rows = _as_collated(chunks[0], items, collate, total, seed)
    else:
        with _one_batch(name, 0, len(order)):
            rows = Rows(_join(chunks), len(order), total)
    rows.name, rows.places = name, indices
    if indices is None:
        return rows
    known = _columns_at_hand(dataset, total)
    if known is not None:
        rows.carriers = carriers_of_columns(known, total, len(order))
    elif rows.sliceable:
        # Without columns of all rows the sample's own are looked at: they show what it has few of.
        rows.carriers = carriers_of_columns(rows.batch, len(order), len(order))
    return rows


def _leaves(batch: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each leaf of a batch with what it is called."""
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _leaves(value, f"{path}['{key}']" if path else f"'{key}'")
    elif isinstance(batch, list | tuple):
        names = ["the inputs", "the targets"] if len(batch) == 2 and not path else []
        for index, value in enumerate(batch):
            name = names[index] if names else f"{path}[{index}]" if path else f"item {index}"
            yield from _leaves(value, name)
    else:
        yield path or "the inputs", batch


def _check_lengths(tensors: Sequence[Tensor], name: str) -> None:
    """Raise `SharpError` where tensors do not have a row for each example, all of them."""
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
    """Rows that a task's own collate has made a batch of.

    Slices of the batch stand for its rows only where they are what collate makes of some rows,
    but for padding; otherwise collate is called for each batch.
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
    """The rows of `indices`, None where a leaf does not have one row for each of `count`."""
    rows: list[bool] = []

    def look(leaf: Any) -> Any:
        sized = (isinstance(leaf, Tensor) and leaf.ndim > 0) or isinstance(leaf, list | tuple)
        rows.append(sized and len(leaf) == count)
        return leaf

    _map(batch, look)
    if not all(rows):
        return None
    chosen = torch.tensor(indices)
    return _map(batch, lambda leaf: _pick(leaf, chosen))


# How a slice of a batch compares with what collate makes of the same rows.
_DIFFERENT, _PADDED, _SAME = range(3)


def _alike(sliced: Any, made: Any) -> int:
    """Whether a slice is what collate makes, that and padding, or something else."""
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
    return _SAME if sliced is not None and _equal(sliced, made) else _DIFFERENT


def _alike_tensors(sliced: Any, made: Tensor) -> int:
    if not isinstance(sliced, Tensor) or sliced.dtype != made.dtype or sliced.ndim != made.ndim:
        return _DIFFERENT
    if sliced.shape == made.shape:
        return _SAME if _equal(sliced, made) else _DIFFERENT
    if len(sliced) != len(made) or any(
        a < b for a, b in zip(sliced.shape, made.shape, strict=True)
    ):
        return _DIFFERENT
    left = sliced[tuple(slice(0, size) for size in made.shape)]
    right = sliced[
        tuple(slice(len_ - size, len_) for len_, size in zip(sliced.shape, made.shape, strict=True))
    ]
    return _PADDED if _equal(left, made) or _equal(right, made) else _DIFFERENT


def join_rows(parts: Sequence[Rows]) -> Rows | None:
    """Rows of several data sets one after the other; None where they do not make a batch."""
    if not all(part.sliceable for part in parts):
        return None
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
        hint = "give rows of equal shape (pad in the data set), or define collate(rows)"
        # Images, texts and objects: a plain TypeError of torch's.
        if "batch must contain" in str(error):
            hint = "make tensors of what a row holds in the data set, or define collate(rows)"
        raise SharpError(
            f"rows {start} to {stop - 1} of the {name} do not make a batch: {error}", hint
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
    if _holds_tensors(node):
        made = copy.copy(node)
        for key, value in vars(node).items():
            object.__setattr__(made, key, _map(value, leaf))  # dataclasses may be frozen
        return made
    return leaf(node)


def _moved(leaf: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A leaf on a device, in the dtype where it is a floating-point tensor."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.to(device, dtype) if leaf.is_floating_point() else leaf.to(device)


def _holds_tensors(node: Any) -> bool:
    """Whether this is an object of a class of the task's own, with tensors for attributes."""
    attributes = getattr(node, "__dict__", None)
    return isinstance(attributes, dict) and any(isinstance(v, Tensor) for v in attributes.values())


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
        return list(left) == list(right) and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, Sequence) and not isinstance(left, str):
        return len(left) == len(right) and all(map(_equal, left, right))
    if _holds_tensors(left):
        return type(left) is type(right) and _equal(vars(left), vars(right))
    return bool(left == right)
