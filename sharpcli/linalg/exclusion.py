"""Where a Lanczos run excludes an eigenvalue that it has not shown.

For an eigenvector u at μ the inner products of u with the Lanczos vectors obey the run's own
three-term recurrence, and their squares sum to at most 1. So the share of u in the start is at most
S(μ) = 1 / Σ pⱼ(μ)², the Christoffel function, which away from the Ritz values falls exponentially
with the steps (Szegő 1939, section 3.4). A random start rarely has so small a share of u, and
several starts even more rarely: `Runs.missed` is that probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Run", "Runs"]

# An eigenvalue is excluded if the probability that all starts miss it is below this.
_FAILURES = 1e-4
# Rounding spreads over the coordinates: an eigenvector sees at most this many times the root mean
# square of a product's error, and never more than its norm.
_SEEN_OF_ROUNDING = 4.0
# Test points in a stretch, and the distance of the first from its ends as a share of the stretch.
_PLACES, _NEAREST = 160, 1e-13
# Small matrices that are diagonalised together.
_TOGETHER = 64
# How far outside the spectrum to test, in units of ‖A‖.
_FARTHEST = 1e3


@dataclass(frozen=True)
class Run:
    """The tridiagonal matrix of a Lanczos run: `diagonal` (m,) and off-diagonal `beside` (m,).

    The last entry of `beside` couples to the next, missing step. `values` are the eigenvalues,
    `weights` the start's shares in their vectors.
    """

    diagonal: Tensor
    beside: Tensor
    values: Tensor
    weights: Tensor

    def nearest(self, places: Tensor) -> Tensor:
        """Upper bounds on the distance from each of `places` (k,) to an eigenvalue.

        The least ‖(A − μ)x‖ over unit x of the Krylov space, computed from the recurrence (Lehmann
        1949; Parlett 1980, section 10.5).
        """
        matrix = torch.diag(self.diagonal)
        matrix += torch.diag(self.beside[:-1], 1) + torch.diag(self.beside[:-1], -1)
        below = torch.zeros_like(matrix[:1])
        below[0, -1] = self.beside[-1]
        found = [places[:0]]
        for few in torch.split(places, _TOGETHER):
            shifted = matrix - few[:, None, None] * torch.eye(len(matrix), dtype=matrix.dtype)
            tall = torch.cat([shifted, below.expand(len(few), 1, -1)], dim=1)
            found.append(torch.linalg.eigvalsh(tall.mT @ tall)[:, 0].clamp(min=0).sqrt())
        return torch.cat(found)


@dataclass(frozen=True)
class Runs:
    """Lanczos runs from random starts on one operator of `size` n; products err by `rounding`."""

    runs: Sequence[Run]
    size: int
    rounding: float

    def missed(self, places: Tensor) -> Tensor:
        """The probability that all starts hide an eigenvector at each of `places` (k,)."""
        noise = self.rounding * min(1.0, _SEEN_OF_ROUNDING / self.size**0.5)
        logarithm = torch.zeros_like(places)
        for length in {len(run.diagonal) for run in self.runs}:
            runs = [run for run in self.runs if len(run.diagonal) == length]
            values, weights = (torch.stack([getattr(run, key) for run in runs]) for key in _SEEN)
            distances = values[:, :, None] - places
            drift = (weights[:, :, None] / distances.square()).sum(1).sqrt() * noise
            share = _christoffel(runs, places).sqrt() + drift.nan_to_num(nan=math.inf)
            chance = torch.special.erf(share * (self.size / 2) ** 0.5)
            logarithm += chance.clamp(min=torch.finfo(places.dtype).tiny).log().sum(0)
        return logarithm.exp()

    def excluded(self, places: Tensor) -> Tensor:
        """Whether an eigenvalue at each of `places` (k,) is excluded, but for a chance of 1e-4."""
        return self.missed(places) <= _FAILURES

    def beyond(self, end: float, outward: float) -> float:
        """How far beyond the outermost Ritz value `end` an eigenvalue may be.

        `outward` is 1 at the top and −1 at the bottom.
        """
        extent = max(float(run.values.abs().max()) for run in self.runs)
        if extent == 0:
            return 0.0  # products take a random start to zero: the matrix is zero
        offsets = _geometric(extent * _NEAREST, extent * _FARTHEST)
        return _last(offsets, ~self.excluded(end + outward * offsets))

    def above(self, low: float, limit: float) -> float:
        """How far above `low` an eigenvalue may be below a known one at `limit`, or infinity."""
        if limit == math.inf:
            return self.beyond(low, 1.0)
        between = self.between(low, limit)
        return between[0] if between else math.inf

    def between(self, low: float, high: float) -> tuple[float, float] | None:
        """How far above `low` and below `high` an eigenvalue may be; None if anywhere between."""
        half = (high - low) / 2
        if half <= 0:
            return None
        offsets = _geometric(half * _NEAREST, half)
        above, below = (~self.excluded(x) for x in (low + offsets, high - offsets))
        if bool(above[-1]) or bool(below[-1]):
            return None
        return _last(offsets, above), _last(offsets, below)


_SEEN = ("values", "weights")


def _geometric(first: float, last: float) -> Tensor:
    return torch.logspace(math.log10(first), math.log10(last), _PLACES, dtype=torch.float64)


def _last(offsets: Tensor, open_: Tensor) -> float:
    """The first offset beyond which nothing is open."""
    places = open_.nonzero().ravel()
    if not len(places):
        return 0.0
    index = int(places[-1]) + 1
    return float(offsets[index]) if index < len(offsets) else math.inf


def _christoffel(runs: Sequence[Run], places: Tensor) -> Tensor:
    """1 / Σ pⱼ² (r, k) of each run's orthonormal polynomials, the one after the last step included.

    The recurrence is rescaled as it goes, because away from the spectrum it would overflow.
    """
    diagonal = torch.stack([run.diagonal for run in runs])[:, :, None]
    beside = torch.stack([run.beside for run in runs])[:, :, None]
    scale = float(diagonal.abs().max() + 2 * beside.max())
    least = max(torch.finfo(torch.float64).eps * scale, torch.finfo(torch.float64).tiny)
    beside = beside.clamp(min=least)
    before = torch.zeros(len(runs), len(places), dtype=torch.float64)
    now = torch.ones_like(before)
    first, total = torch.ones_like(before), torch.ones_like(before)
    for step in range(diagonal.shape[1]):
        coupled = beside[:, step - 1] * before if step else 0.0
        before, now = now, ((places - diagonal[:, step]) * now - coupled) / beside[:, step]
        shrink = now.abs().clamp(min=1.0)
        before, now, first, total = (
            before / shrink,
            now / shrink,
            first / shrink,
            total / shrink**2,
        )
        total = total + now.square()
    return first.square() / total
