"""Means over examples with sampling errors, from sums that add up over batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import SharpError
from sharpcli.objective.reliability import carriers, widened

__all__ = ["MOMENTS", "Evaluation", "Mean", "mean_of", "moments"]

# The number of entries in `moments`.
MOMENTS = 11

# A sum of cancelling powers is not known below this share of the largest of them.
_RESOLVED = 1e-10


@dataclass(frozen=True)
class Mean:
    """A mean over examples; `sampling_error` is its standard error if a subset was measured.

    1.96 times it is Student's 95 % interval with as many degrees of freedom as examples carry the
    error (`carriers`); the interval is wider if few do.
    """

    value: float
    sampling_error: float | None
    carriers: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Loss and metrics over one data set, from one forward pass."""

    loss: Mean
    metrics: Mapping[str, Mean]


def moments(sums: Tensor, weights: Tensor, *, squares: bool = True) -> Tensor:
    """The power sums (11,) behind a mean and its error; they stay on the device.

    Σs, Σw, Σs², Σsw, Σw², the number of examples, and Σs⁴, Σs³w, Σs²w², Σsw³, Σw⁴. `sums` and
    `weights` are one pair for each example (N,), or one pair for a batch. Moments of batches add
    up. Without `squares`, which only the error needs, just the first two (2,).
    """
    s, w = sums.reshape(-1), weights.reshape(-1)
    if not squares:
        return torch.stack([s.sum(), w.sum()])
    count = torch.full((), float(len(s)), dtype=s.dtype, device=s.device)
    ss, sw, ww = s * s, s * w, w * w
    fourth = [ss @ ss, ss @ sw, ss @ ww, sw @ ww, ww @ ww]
    return torch.stack([s.sum(), w.sum(), ss.sum(), sw.sum(), ww.sum(), count, *fourth])


def mean_of(values: Sequence[float], total: int, *, sampled: bool) -> Mean:
    """The mean Σs/Σw of `moments`, with its sampling error if they are a subset of `total`.

    The error is that of the linearised ratio estimator over a simple random sample, with the
    finite-population correction. The powers of its residuals are multiplied out, and it is widened
    by Student's t with as many degrees of freedom as examples carry it.

    Raises:
        SharpError: if the total weight is zero.

    Source: Cochran 1977, section 6.4.
    """
    s, w, *rest = values
    if w == 0:
        raise SharpError(
            "the loss has no weight: every target of the data is ignored",
            "check the targets that data() gives, and what loss() leaves out",
        )
    mean = s / w
    if not sampled:
        return Mean(mean, None)
    ss, sw, ww, count, *fourths = rest
    if count < 2:
        return Mean(mean, None)
    squares = max(0.0, ss - 2 * mean * sw + mean * mean * ww)
    error = math.sqrt(squares / (count - 1) / count * (1 - count / total)) / (w / count)
    square = mean * mean  # products overflow to infinity, where powers raise
    binomial = (1.0, -4 * mean, 6 * square, -4 * mean * square, square * square)
    parts = [factor * each for factor, each in zip(binomial, fourths, strict=True)]
    fourth = sum(parts)
    # For deviations far below the mean the powers are only rounding: treat them as normal.
    if fourth <= _RESOLVED * max(map(abs, parts)):
        fourth = 3 * squares * squares / count
    carried = carriers(squares, fourth, int(count))
    return Mean(mean, widened(error, carried), carried)
