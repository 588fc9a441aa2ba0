"""Data loaders as data whose rows are read by number."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    default_collate,
)

from sharpcli.errors import UsageError, setting

__all__ = ["drawn", "map_style"]


def map_style(
    data: Any, name: str, notes: list[str], merge: Callable[[list[Any]], Any] | None = None
) -> tuple[Any, Callable[[list[Any]], Any] | None]:
    """A map-style data set or a tuple of tensors, and the collate_fn of a loader of one's own.

    A loader's data set is taken in its own order: shuffling does not matter. A subset that the
    loader draws is kept; other ways to draw rows are left aside with a note.

    Args:
        data: a data set, tensors, arrays, a DataLoader, or None.
        name: the argument, for messages.
        notes: receives notes.
        merge: makes a batch of a list of rows, if it is known. A list of tensors is then one of
            rows, else one of columns.

    Raises:
        UsageError: its rows cannot be read by number.
    """
    collate = None
    if isinstance(data, DataLoader):
        loader, data = data, data.dataset
        _check_rows(data, f"{name}: the loader's data set")
        if loader.batch_size is None and loader.batch_sampler is None:
            raise UsageError(
                f"{name}: the loader has batch_size=None, and what its data set gives is taken as "
                "it is, one row or one batch",
                f"give its data set, and {setting('collate')} if its rows need one",
            )
        collate = None if loader.collate_fn is default_collate else loader.collate_fn
        data = drawn(data, loader, name, notes)
    elif data is not None:
        _check_rows(data, name)
    kinds = tuple if collate or merge else tuple | list
    if isinstance(data, kinds) and data and all(_is_column(each) for each in data):
        with warnings.catch_warnings():
            # A file mapped for reading is only read here.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            data = tuple(torch.as_tensor(each) for each in data)
    return data, collate


def _check_rows(data: Any, name: str) -> None:
    rows = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if isinstance(data, Mapping):
        raise UsageError(
            f"{name} (a {type(data).__name__}) has keys and no rows",
            "give a data set of rows, or the columns as a tuple (inputs, targets)",
        )
    if isinstance(data, IterableDataset) or not rows:
        kind = type(data).__name__
        raise UsageError(
            f"{name} ({kind}) gives its rows one after the other and not by number, so they differ "
            "from pass to pass",
            "read as many as are to be measured into a list or tensors, and give these",
        )


def _is_column(each: Any) -> bool:
    return isinstance(each, Tensor) or (hasattr(each, "__array__") and hasattr(each, "shape"))


def _fixed(sampler: Any, batches: Any) -> list[int] | None:
    """The rows that a loader draws in every epoch, once each, where they are listed."""
    rows: Any = None
    if isinstance(batches, list | tuple):
        rows = [each for batch in batches for each in batch]
    elif type(sampler) is SubsetRandomSampler:
        rows = sampler.indices
    elif isinstance(sampler, list | tuple | range):
        rows = sampler
    if rows is None:
        return None
    chosen = sorted(int(each) for each in rows)
    return chosen if len({*chosen}) == len(chosen) else None


def drawn(data: Any, loader: DataLoader[Any], name: str, notes: list[str]) -> Any:
    """The rows of a data set that a loader draws from.

    Args:
        data: the loader's data set.
        loader: it.
        name: of the loader, for notes.
        notes: receives what was chosen or left aside.
    """
    sampler: Any = loader.sampler
    batches = loader.batch_sampler
    chosen = _fixed(sampler, batches)
    if chosen is not None:
        if len(chosen) == len(data):
            return data
        notes.append(f"{name}: the {len(chosen)} of {len(data)} rows that the loader draws from")
        return Subset(data, chosen)
    plain = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(data)
    )
    own = type(batches).__module__.partition(".")[0] not in ("torch", "accelerate")
    if not plain or own:
        which = type(batches if own else sampler).__name__
        notes.append(
            f"{name}: {which} is left aside: each of the {len(data)} rows counts once, however "
            "often it is drawn in training"
        )
    return data
