"""A fixed sample of the rows from which a training draws its batches, and how large it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from sharpcli.objective.reading import read_rows
from sharpcli.objective.reliability import carriers_of_columns
from sharpcli.objective.rows import Rows
from sharpcli.objective.trees import equal, leaves
from sharpcli.runs.tracking import searched_of, usual_sample
from sharpcli.runtime.randomness import own_generator, seed_all

__all__ = ["Sizes", "checks_of", "read_sample", "searched_part", "sizes_for", "work_of"]

# λ1 takes so many gradients of the examples in which its vector is searched: 13 on a small GPT, 17
# on a small CNN. That includes measuring float32's rounding. The value on all examples takes three
# forward passes more, about one gradient.
_SEARCH = 15
# The share of a sample in which the vector is searched. At equal cost, on digits after 200 steps of
# Adam, λ1 of 384 examples and half of them is off by a median of 4 %, of 984 and a sixth by a mean
# of -9 %: a vector of few examples fits these alone.
_SHARE = 1 / 2
# At most so many examples in the smallest and in the largest sample.
_FEW, _MOST = 384, 2048
# The checks of a loss: forward passes in float64 over so many examples, worth so many gradients of
# each, and two passes over more of them (`check_coupling`). A small CNN takes as much in all.
_PASSES, _CHECKED, _COMPARED = 20, 64, 256
_READ_TWICE = 4  # rows that show whether reading again gives the same


@dataclass(frozen=True)
class Sizes:
    """The smallest and the largest sample, in examples."""

    fewest: int
    most: int

    def fitting(self, seconds: float, gradient: float, reading: float) -> int:
        """The largest sample, doubled from the smallest, that λ1 can be found of in `seconds`.

        Args:
            seconds: for each measurement.
            gradient: seconds of an example's gradient.
            reading: seconds to read an example, once.
        """
        size = self.fewest
        while 2 * size <= self.most:
            more = size * reading
            if max(work_of(2 * size) * gradient, more) > seconds:
                break
            size *= 2
        return size


def sizes_for(terms: float, total: int) -> Sizes:
    """Sizes for a loss with so many terms in an example, with `total` examples in all.

    The largest is the sample of a tracked training, the smallest as many as that one searches.
    """
    usual = usual_sample(terms)
    return Sizes(min(searched_of(usual), _FEW, total), min(usual, _MOST, total))


def work_of(count: int) -> float:
    """What λ1 of so many examples takes, in gradients of one."""
    return (_SEARCH * _SHARE + 1) * count


def checks_of(count: int) -> float:
    """What the checks of so many examples take, in gradients of one: mostly forward passes."""
    return _PASSES * min(count, _CHECKED) + min(count, _COMPARED)


def searched_part(rows: Rows, seed: int) -> Tensor:
    """The numbers in a sample where an eigenvector is searched: of all data, all."""
    if not rows.sampled:
        return torch.arange(rows.count)
    order = torch.randperm(rows.count, generator=own_generator("searched part", seed))
    return order[: math.ceil(rows.count * _SHARE)].sort().values


def read_sample(
    data: Any,
    collate: Callable[[list[Any]], Any] | None,
    *,
    samples: int,
    seed: int,
    notes: list[str],
) -> Rows:
    """So many rows of a map-style data set, read once and made into one batch.

    A larger sample holds a smaller one of the same seed. Reading and collating may draw random
    numbers, as augmentation and masking do: the rows are what they gave this time.
    """
    total = len(data)
    order = torch.randperm(total, generator=own_generator("watched sample", seed))
    chosen = order[:samples].tolist()
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
    if all(_has_rows(leaf, len(items)) for leaf in leaves(batch)):
        rows = Rows(batch, len(items), total)
    else:
        rows = read_rows(_Kept(items), name="training data", collate=collate)
        rows.total = total
    if rows.sampled and rows.sliceable:
        rows.carriers = carriers_of_columns(rows.batch, len(items), len(items))
    rows.name = "training data"
    return rows


def _has_rows(leaf: Any, count: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.shape[:1] == (count,)


class _Kept:
    """Rows that were read, as a data set."""

    def __init__(self, items: Sequence[Any]) -> None:
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
