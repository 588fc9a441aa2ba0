"""How far the error of a sample can be trusted, and when it cannot.

A standard error taken from a sample is itself an estimate. It is a poor one where a few examples
carry the number, and no estimate at all of kinds of example that the sample has none of.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.results import flat_scalars
from sharpcli.documents.statuses import SamplingStatus
from sharpcli.errors import setting
from sharpcli.objective.trees import leaves

__all__ = [
    "FEW",
    "carriers",
    "carriers_of_columns",
    "doubt",
    "sampling_status",
    "student",
    "warning",
    "widened",
]

# Fewer examples than this that carry a number: it is one example's. Where two or more carry it the
# widened interval is right: on skewed sets of 2,000, digits and MNIST (losses of 0.01 to 0.8) it
# held the mean in 92 to 100 % of the samples of 256 to 1,024 with two to four carriers.
FEW = 1.5
# The same of a column of all the data, of which a sample has its share, or none. With twelve of a
# kind a variance is good to 30 %. With ten, and losses that differ within the kind, 87 % of the
# intervals of samples that looked sound held the mean.
_FEW_IN_A_COLUMN = 12.0
# A kind of example that makes up 1.5 % of the data is missing from 5 % of the samples of this size.
# On MNIST at losses below 0.1 samples of 128 held the mean in 85 %, of 256 in 88 to 93 %.
_SMALL = 200.0
# 97.5 % quantiles of Student's t by 1/degrees of freedom. Linear interpolation between them is
# never too narrow, as the curve is convex.
_STUDENT = (
    (0.0, 1.960),
    (1 / 60, 2.000),
    (1 / 30, 2.042),
    (1 / 20, 2.086),
    (1 / 15, 2.131),
    (1 / 10, 2.228),
    (1 / 8, 2.306),
    (1 / 6, 2.447),
    (1 / 5, 2.571),
    (1 / 4, 2.776),
    (1 / 3, 3.182),
    (1 / 2.5, 3.575),
    (1 / 2, 4.303),
    (1 / 1.5, 6.017),
    (1.0, 12.706),
)
# A row's norm is looked at in columns of up to this many numbers in all.
_MOST_NUMBERS = 2**27


def carriers(second: float, fourth: float, count: int) -> float:
    """How many of `count` examples carry a variance: count/(κ − 1), at most count − 1.

    `second` and `fourth` are Σd² and Σd⁴ of deviations from a mean, κ = count·Σd⁴/(Σd²)² their
    kurtosis. The variance's relative standard deviation is 1/√carriers, as if it came from that
    many examples alone: m of equal weight among others of none give about m. None do where there
    is no variance.
    """
    if not second:
        return 0.0
    square = second * second
    excess = fourth - square / count
    most = max(count - 1.0, 1.0)
    return most if excess <= square / most else max(1.0, square / excess)


def student(degrees: float) -> float:
    """The 97.5 % quantile of Student's t with 1 or more degrees of freedom."""
    inverse = 1 / max(degrees, 1.0)
    for (left, low), (right, high) in itertools.pairwise(_STUDENT):
        if inverse <= right:
            return low + (high - low) * (inverse - left) / (right - left)
    return _STUDENT[-1][1]


def widened(error: float, degrees: float) -> float:
    """A standard error so that 1.96 of it are Student's interval of these degrees of freedom."""
    return error * student(degrees) / _STUDENT[0][1]


def carriers_of_columns(batch: Any, total: int, count: int) -> float:
    """How many of `count` rows drawn out of a batch of `total` carry its rarest column.

    Columns are what a row has one number of: a target, a weight, the norm of its inputs, and for
    classes the surprise −log frequency, which is even where classes are. Infinite where there is
    no such column. Cost: one pass over the data.
    """
    found = [_carriers_of(column) for column in _columns(batch) if len(column) == total]
    return count / total * min(found, default=math.inf)


def outstanding(batch: Any, total: int, count: int, each: int) -> Tensor:
    """Rows that `count` drawn out of a batch of `total` are likely to lack: indices, in order.

    Those `each` rows of every column (as of `carriers_of_columns`) that are farthest from its mean,
    where so few rows carry the column's spread that hardly any are drawn. Cost: one pass over the
    data.
    """
    found = [torch.zeros(0, dtype=torch.int64)]
    for column in _columns(batch):
        if len(column) != total or count / total * _carriers_of(column) >= _FEW_IN_A_COLUMN:
            continue
        off = (column - column.mean()).abs().nan_to_num()
        found.append(off.topk(min(each, total)).indices.cpu())
    return torch.cat(found)


def doubt(count: int, total: int, columns: float = math.inf) -> str | None:
    """Why no error of a sample of `count` rows can be trusted, as a clause; None where one can.

    `columns` are those of `carriers_of_columns`.
    """
    if count >= total:
        return None
    if columns < _FEW_IN_A_COLUMN:
        return (
            f"some kinds of example are so rare in the data that about {columns:.2g} of them are "
            "expected in the sample"
        )
    # The sample misses a kind with m members with a chance of (1 − count/total)ᵐ.
    if -total * math.log1p(-count / total) < _SMALL:
        return f"a sample of {count} often misses kinds of example that make up a percent or two"
    return None


def sampling_status(doubted: str | None, carried: float | None) -> SamplingStatus | None:
    """`unreliable` where the sampling error of a number says too little, else None.

    That is where the sample is `doubted` altogether, and where one example carries the number, or
    none, as no difference between examples was seen. `carried` is None where it is not known.
    """
    few = carried is None or carried < FEW
    return SamplingStatus.UNRELIABLE if doubted or few else None


def warning(numbers: Mapping[str, Any], doubted: str | None) -> str | None:
    """One line that names the numbers whose sampling errors are unreliable, None where none are.

    `numbers` are a result's; those of `doubted` samples say why.
    """
    keys = [key for key, each in flat_scalars(numbers).items() if each.get("sampling_status")]
    names = dict.fromkeys(re.split(r"[.\[]", key)[0] for key in keys)
    if not names:
        return None
    why = doubted or "one example, or none, carries what differs between the examples"
    return (
        f"the sampling errors of {', '.join(name.replace('_', '-') for name in names)} are "
        f"unreliable (marked ?): {why}; take more {setting('samples')}, or all of the data"
    )


def _columns(batch: Any) -> Iterator[Tensor]:
    """A number for each row, float64, from each tensor of a batch."""
    for leaf in leaves(batch):
        if not isinstance(leaf, Tensor) or not leaf.ndim or not leaf.numel():
            continue
        rows = leaf.detach().flatten(1) if leaf.ndim > 1 else leaf.detach()[:, None]
        rows = rows.abs() if rows.is_complex() else rows
        if rows.shape[1] == 1:
            yield rows[:, 0].double() if rows.is_floating_point() else _surprise(rows[:, 0])
        elif rows.is_floating_point() and rows.numel() <= _MOST_NUMBERS:
            yield torch.linalg.vector_norm(rows.float(), dim=1).double()


def _surprise(labels: Tensor) -> Tensor:
    """−log of how frequent each row's class is."""
    _, which, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    found: Tensor = -(counts.double() / len(labels)).log()[which]
    return found


def _carriers_of(column: Tensor) -> float:
    finite = column[column.isfinite()]
    if len(finite) < 2:
        return math.inf
    off = (finite - finite.mean()).cpu()
    largest = float(off.abs().max())
    # Of equal values nothing but rounding is left, as of the norms of normalised rows.
    if largest <= 1e-5 * float(finite.abs().max()):
        return math.inf
    off = off / largest
    return carriers(float(off.square().sum()), float(off.pow(4).sum()), len(finite))
