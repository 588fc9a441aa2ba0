"""Divide rows of different lengths into batches that are padded little."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sharpcli.objective.trees import leaves

__all__ = ["length_of", "padded_share", "ranges"]

# A batch is taken to cost as much as this many more numbers. It is an estimate, not a measurement,
# and changes the time of a pass only.
_A_BATCH = 300
# Lengths are rounded up to this many different ones before the best division is sought.
_STEPS = 128


def length_of(row: Any) -> int:
    """How many numbers or characters an uncollated row holds."""
    found = 0
    for leaf in leaves(row):
        if isinstance(leaf, Tensor | np.ndarray):
            found += math.prod(leaf.shape)
        else:
            found += len(leaf) if isinstance(leaf, str | list | tuple) else 1
    return found


def padded_share(lengths: Sequence[int]) -> float:
    """How many times as many numbers rows have when they are padded to the longest."""
    return len(lengths) * max(lengths) / max(sum(lengths), 1)


def ranges(lengths: Sequence[int], most: int, sized: float) -> list[tuple[int, int]]:
    """Divide rows, longest first, into batches: ranges of rows that are padded to their first.

    Args:
        lengths: of the rows, decreasing.
        most: rows in a batch, of rows of up to the length `sized`; of longer ones, fewer.
        sized: that length.

    Returns:
        The ranges for which padding and the number of batches together cost least.
    """
    found = []
    for start, stop in _groups(lengths):
        at_once = max(1, min(most, int(most * sized / max(lengths[start], 1))))
        parts = -(-(stop - start) // at_once)
        size = -(-(stop - start) // parts)
        found += [(at, min(at + size, stop)) for at in range(start, stop, size)]
    return found


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The ranges of rows that are best padded to one length, in order."""
    step = max(1, -(-max(lengths) // _STEPS))
    rounded = [-(-length // step) for length in lengths]
    edges = [0, *(i for i in range(1, len(rounded)) if rounded[i] != rounded[i - 1]), len(rounded)]
    costs, before = [0.0], [0]
    for end in range(1, len(edges)):
        choices = [
            costs[start] + _A_BATCH + (edges[end] - edges[start]) * lengths[edges[start]]
            for start in range(end)
        ]
        best = min(range(end), key=choices.__getitem__)
        costs.append(choices[best])
        before.append(best)
    cuts = [len(edges) - 1]
    while cuts[-1]:
        cuts.append(before[cuts[-1]])
    for start, stop in itertools.pairwise(reversed(cuts)):
        yield edges[start], edges[stop]
