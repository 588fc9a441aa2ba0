"""A fixed sample of the rows from which a training draws its batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from sharpcli.objective.reading import read_rows
from sharpcli.objective.reliability import carriers_of_columns
from sharpcli.objective.rows import Rows
from sharpcli.objective.trees import equal, leaves
from sharpcli.runtime.randomness import own_generator, seed_all

__all__ = ["read_sample", "searched_part", "size_of_sample"]

# Gradients of the examples in which a vector is searched that λ1 takes, about: on small GPTs 7 by
# differences and a product. The other examples take three forward passes, about one gradient.
_SEARCH = 9.5
# The share of the sample in which the vector is searched, its fewest examples, and the fewest of
# the sample: with fewer, λ1 of the sample says little about that of the data.
_SHARE, _FEWEST_SEARCHED, _FEWEST = 1 / 6, 32, 64
_MOST = 6144  # examples, as `sharp train` tracks of a loss with one term for each
_READ_TWICE = 4  # rows that show whether reading again gives the same


def size_of_sample(share: float | None, every: int, batch: int) -> int:
    """Examples whose λ1 costs about a share of `every` steps on batches of so many examples.

    It depends on counts alone, so that two equal trainings measure the same examples.
    """
    gradients = (0.1 if share is None else share) * every * batch
    return int(min(max(gradients / (_SEARCH * _SHARE + 1), _FEWEST), _MOST))


def searched_part(count: int, seed: int) -> Tensor:
    """The numbers in a sample of `count` where an eigenvector is searched."""
    first = min(count, max(math.ceil(count * _SHARE), _FEWEST_SEARCHED))
    order = torch.randperm(count, generator=own_generator("searched part", seed))
    return order[:first].sort().values


def read_sample(
    data: Any,
    collate: Callable[[list[Any]], Any] | None,
    *,
    samples: int,
    seed: int,
    notes: list[str],
) -> Rows:
    """So many rows of a map-style data set, read once and made into one batch.

    Reading and collating may draw random numbers, as augmentation and masking do: the rows are
    what they gave this time.
    """
    total = len(data)
    order = torch.randperm(total, generator=own_generator("watched sample", seed))
    chosen = sorted(order[:samples].tolist())
    seed_all(seed)
    items = [data[index] for index in chosen]
    again = [data[index] for index in chosen[:_READ_TWICE]]
    if not equal(_plain(items[:_READ_TWICE]), _plain(again)):
        notes.append(
            "rows differ each time they are read (augmentation): the sample holds them as they "
            "were read first"
        )
    batch = (collate or default_collate)(list(items))
    batch = dict(batch) if isinstance(batch, Mapping) else batch
    if all(isinstance(leaf, Tensor) and leaf.shape[:1] == (len(items),) for leaf in leaves(batch)):
        rows = Rows(batch, len(items), total)
        rows.carriers = math.inf
        if rows.sampled:
            rows.carriers = carriers_of_columns(batch, len(items), len(items))
    else:
        rows = read_rows(_Kept(items), name="training data", collate=collate)
        rows.total = total
    rows.name = "training data"
    return rows


class _Kept:
    """Rows that were read, as a data set."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


def _plain(node: Any) -> Any:
    """Mappings of any class as dictionaries, arrays as tensors."""
    if hasattr(node, "__array__") and hasattr(node, "dtype"):
        return torch.as_tensor(node)
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    return [_plain(each) for each in node] if isinstance(node, list | tuple) else node
