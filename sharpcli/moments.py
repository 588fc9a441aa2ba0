"""Means over examples with their sampling errors, from sums that can be added up batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import SharpError

__all__ = ["Evaluation", "Mean", "mean_of", "moments"]


@dataclass(frozen=True)
class Mean:
    """A mean over examples; `sampling_error` is its standard error where a subset was measured."""

    value: float
    sampling_error: float | None


@dataclass(frozen=True)
class Evaluation:
    """Loss and metrics over one data set, from one forward pass."""

    loss: Mean
    metrics: Mapping[str, Mean]


def moments(sums: Tensor, weights: Tensor, *, squares: bool = True) -> Tensor:
    """What a mean and its error are made of, (6,): Σs, Σw, Σs², Σsw, Σw² and how many there are.

    `sums` and `weights` are one pair an example (N,), or one pair for a whole batch. Moments of
    batches add up. Without `squares`, which only the error takes, the first two alone (2,). Stays
    on the device.
    """
    s, w = sums.reshape(-1), weights.reshape(-1)
    if not squares:
        return torch.stack([s.sum(), w.sum()])
    count = torch.full((), float(len(s)), dtype=s.dtype, device=s.device)
    return torch.stack([s.sum(), w.sum(), s @ s, s @ w, w @ w, count])


def mean_of(values: Sequence[float], total: int, *, sampled: bool) -> Mean:
    """The mean Σs/Σw of `moments`, and its sampling error where they are a subset of `total`.

    The error is that of the linearised ratio estimator over a simple random sample, with the
    finite-population correction (Cochran 1977, section 6.4), its residuals' squares multiplied
    out. Raises `SharpError` where there is no weight at all.
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
    ss, sw, ww, count = rest
    if count < 2:
        return Mean(mean, None)
    squares = max(0.0, ss - 2 * mean * sw + mean * mean * ww) / (w / count) ** 2
    return Mean(mean, (squares / (count - 1) / count * (1 - count / total)) ** 0.5)
