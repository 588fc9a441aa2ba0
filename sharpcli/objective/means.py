"""Means over examples with their sampling errors, from sums that can be added up batch by batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import SharpError
from sharpcli.objective.reliability import carriers, widened

__all__ = ["MOMENTS", "Evaluation", "Mean", "mean_of", "moments"]

# How many numbers `moments` gives.
MOMENTS = 11

# A sum of powers that cancel is not known below this share of the largest of them.
_RESOLVED = 1e-10


@dataclass(frozen=True)
class Mean:
    """A mean over examples; `sampling_error` is its standard error where a subset was measured.

    1.96 of it are Student's 95 % interval with as many degrees of freedom as examples carry the
    error (`carriers`), which is wider where few do.
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
    """What a mean and its error are made of, (11,); it stays on the device.

    Σs, Σw, Σs², Σsw, Σw², how many there are, and Σs⁴, Σs³w, Σs²w², Σsw³, Σw⁴. `sums` and
    `weights` are one pair an example (N,), or one pair for a whole batch. Moments of batches add
    up. Without `squares`, which only the error takes, the first two alone (2,).
    """
    s, w = sums.reshape(-1), weights.reshape(-1)
    if not squares:
        return torch.stack([s.sum(), w.sum()])
    count = torch.full((), float(len(s)), dtype=s.dtype, device=s.device)
    ss, sw, ww = s * s, s * w, w * w
    fourth = [ss @ ss, ss @ sw, ss @ ww, sw @ ww, ww @ ww]
    return torch.stack([s.sum(), w.sum(), ss.sum(), sw.sum(), ww.sum(), count, *fourth])


def mean_of(values: Sequence[float], total: int, *, sampled: bool) -> Mean:
    """The mean Σs/Σw of `moments`, and its sampling error where they are a subset of `total`.

    The error is that of the linearised ratio estimator over a simple random sample, with the
    finite-population correction (Cochran 1977, section 6.4), its residuals' powers multiplied
    out, and widened by Student's t with as many degrees of freedom as examples carry it. Raises
    `SharpError` where there is no weight at all.
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
    # Of deviations far below the mean the powers leave rounding only: as of normal ones then.
    if fourth <= _RESOLVED * max(map(abs, parts)):
        fourth = 3 * squares * squares / count
    carried = carriers(squares, fourth, int(count))
    return Mean(mean, widened(error, carried), carried)
