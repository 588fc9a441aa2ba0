"""Local entropy: the log of the volume of small losses around θ."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.statuses import Status
from sharpcli.errors import setting
from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.context import Context
from sharpcli.measures.rises import Surroundings, normal_draws
from sharpcli.objective.reliability import widened

__all__ = ["local_entropy"]

# Fewer draws than this that carry the mean say nothing of its error.
_FEWEST_CARRIERS = 10.0


def local_entropy(context: Context) -> dict[str, Any]:
    """Log ∫ exp(−L(θ′) − γ/2‖θ − θ′‖²) dθ′, by the mean of exp(−L) over normal draws.

    `mean` is log E exp(−L(θ + u)) with u ∼ N(0, I/γ), the local entropy relative to that of a loss
    of 0. `integral` adds the Gaussian's own volume, ½n·log(2π/γ), the same for all networks of one
    size. The estimate holds for any loss, not only for a quadratic one, for which `mean` is
    −L + ½gᵀ(H + γ)⁻¹g − ½ tr log(I + H/γ). It is the larger the wider a minimum is. The draws'
    scatter along the gradient, whose mean is known, is taken out by regression. If few draws carry
    the mean, because losses differ by much more than 1, the error is not known, and the number is
    unresolved.

    Cost: 100 forward passes and one gradient.
    Source: Chaudhari et al. 2017 (Entropy-SGD), there by Langevin dynamics, which gives its
    gradient only.
    """
    options = context.settings.options
    gamma, count = options["entropy_gamma"], options["entropy_draws"]
    around = Surroundings(context)
    _, gradient = context.value_and_gradient
    rises, slopes = [], []
    changes = _Weighted()
    for drawn in normal_draws(context, "local entropy", count):
        shift = drawn / math.sqrt(gamma)
        rise = around.rise(shift)
        rises.append(rise.value)
        slopes.append(float(dots(gradient[None], shift[None])))
        if rise.changes is not None:
            changes.add(-rise.value, rise.changes)
    found = _log_mean(torch.tensor(rises, dtype=torch.float64), slopes)
    value, error, carriers = found
    value -= around.loss
    rounding = 2 * around.rounding
    # On other data L(θ) moves as well: each example's loss counts with its change.
    sampled = around.sampled_loss(changes.mean)
    status, advice = Status.CONVERGED, None
    if not carriers >= _FEWEST_CARRIERS:
        status = Status.UNRESOLVED
        advice = (
            f"about {carriers:.1f} of {count} draws carry the mean, because their losses differ by "
            f"far more than 1: raise {setting('entropy_gamma')}, or {setting('entropy_draws')}"
        )
    scalar = Scalar(
        value,
        math.hypot(error, rounding) if math.isfinite(error) else None,
        "standard_error",
        status,
        advice,
        sampling_error=sampled.error,
        sampling_status=sampled.status,
    )
    volume = context.objective.size / 2 * math.log(2 * math.pi / gamma)
    integral = scalar_fields(scalar) | {"value": value + volume}
    return {
        "local_entropy": {
            "mean": scalar,
            "integral": integral,
            "gamma": gamma,
            "draws": count,
            "carriers": carriers,
            "evaluations": count + 1,
        }
    }


def _log_mean(rises: Tensor, slopes: list[float]) -> tuple[float, float, float]:
    """Log of the mean of exp(−rise), its standard error, and how many draws carry it.

    With weights w the carriers are (Σw)²/Σw². The weights are regressed on the slopes, whose mean
    is known to be zero, and the error is widened for few draws.
    """
    count = len(rises)
    highest = float((-rises).max())
    if not math.isfinite(highest):
        return math.nan, math.inf, 0.0
    weights = (-rises - highest).exp().nan_to_num(0.0)
    carriers = float(weights.sum() ** 2 / weights.square().sum())
    along = torch.tensor(slopes, dtype=torch.float64)
    spread = along - along.mean()
    variance = float(spread @ spread)
    steep = float(spread @ (weights - weights.mean())) / variance if variance > 0 else 0.0
    left = weights - steep * along
    mean = float(left.mean())
    if not mean > 0:  # the regression of a few draws went astray
        left, mean = weights, float(weights.mean())
    degrees = count - 2.0
    if degrees < 1:
        return highest + math.log(mean), math.inf, carriers
    off = left - left.mean()
    error = math.sqrt(float(off @ off) / degrees / count) / mean
    return highest + math.log(mean), widened(error, min(degrees, max(carriers, 1.0))), carriers


class _Weighted:
    """A mean of tensors with weights exp(log weight), without overflow."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._weight, self._highest = 0.0, -math.inf

    def add(self, log_weight: float, each: Tensor) -> None:
        """Add one tensor."""
        if not math.isfinite(log_weight):
            return
        highest = max(self._highest, log_weight)
        old, new = math.exp(self._highest - highest), math.exp(log_weight - highest)
        self._total = new * each if self._total is None else old * self._total + new * each
        self._weight, self._highest = old * self._weight + new, highest

    @property
    def mean(self) -> Tensor | None:
        """The weighted mean; None without tensors."""
        return None if self._total is None else self._total / self._weight
