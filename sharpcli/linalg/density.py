"""What a quadrature says of a spectrum: its density, its bulk's edge and the outliers beyond."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .probes import Nodes
from .quadrature import Quadrature

__all__ = ["Bulk", "bulk", "density"]

# Half-width of what stands for one eigenvalue, as a share of it: narrow on any axis, however far
# out it lies, and never across zero.
_NARROW = 2e-3
# The same at zero, as a share of the largest eigenvalue.
_NARROW_AT_ZERO = 1e-6
# Points of the grid: evenly spread, spread by logarithms away from zero, by mass, and around each
# outlier.
_EVEN, _LOGARITHMIC, _BY_MASS = 400, 200, 200
_AROUND = (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0)
_MOST_SHARP = 64
_BESIDE = 1e-3
# The gap below the i-th eigenvalue ends the outliers where it is 5 + ln i times the mean distance
# between the ten eigenvalues below it. At the soft edge of a random matrix that ratio is about 2.
# Even where eigenvalues lie without repelling each other, a gap's chance is (1 + ratio/9)⁻⁹ only,
# and the logarithm keeps that of all of them together small. Outliers are a tenth of all at most.
_GAP, _BELOW, _MOST_SHARE = 5.0, 10, 0.1
# An edge is known where its Ritz value's residual is below this share of the spectrum's width.
_EDGE = 0.05
# Fewer steps than these do not tell that there is no outlier: on trained networks with 2 and 9 of
# them 8 and 12 steps saw none, 10 and 15 all.
_FEW_STEPS = 20


@dataclass(frozen=True)
class Bulk:
    """Where the bulk ends and what lies above: `outliers` (k,) descending, with their `errors`.

    `edge` is the largest eigenvalue of the bulk, `error` its residual; not `resolved`, the steps
    were too few to tell it from an outlier.
    """

    edge: float
    error: float
    outliers: Tensor
    errors: Tensor
    resolved: bool


def density(found: Quadrature) -> tuple[Tensor, Tensor]:
    """The spectral density on a grid (g,), finer where there is more to see; its integral is 1.

    What stands at a point is the mass around it by the width around it (half way to its
    neighbours), so the trapezoidal rule gives back every mass, and 1 for all of it. A node's mass
    spreads half to each side, evenly: as far as its Ritz vector's spread (√3 residuals, which is
    the standard deviation of what it sees) but no further than half way to the next node, and no
    further than zero where no eigenvalue lies beyond. So eigenvalues that are resolved stay narrow
    and a spike at zero stays there, while between nodes that share a continuous bulk the
    distribution is interpolated (the midpoints of the Chebyshev–Markov–Stieltjes bounds).
    """
    pieces = _pieces(found)
    grid = _grid(found, *pieces)
    edges = torch.cat([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    mass = _distribution(edges, *pieces).diff()
    return grid, mass / edges.diff()


def bulk(found: Quadrature) -> Bulk:
    """The eigenvalues above the deepest wide gap of the spectrum, and the bulk below it.

    The gap below the i-th eigenvalue is wide at 5 + ln i times the mean distance between the ten
    eigenvalues below it, which the quadrature counts; only eigenvalues that are resolved one by
    one can be above. Without such a gap all is bulk.
    """
    values = torch.cat([found.top, *(probe.values for probe in found.rest), found.bottom])
    counts = torch.cat(
        [
            torch.ones_like(found.top),
            *(probe.weights * found.size / len(found.rest) for probe in found.rest),
            torch.ones_like(found.bottom),
        ]
    )
    rests = [probe.residuals for probe in found.rest]
    errors = torch.cat([found.top_errors, *rests, found.bottom_errors])
    order = values.argsort(descending=True, stable=True)
    values, counts, errors = values[order], counts[order], errors[order]
    number = 0
    most = min(len(found.top), int(_MOST_SHARE * found.size), len(values) - 1)
    for index in range(1, most + 1):
        gap = float(values[index - 1] - values[index])
        sure = 2 * (float(errors[index - 1]) + found.rounding)
        wide = _GAP + math.log(index)
        if gap > sure and gap >= wide * _spacing(values[index:], counts[index:]):
            number = index
    edge = min(number, len(values) - 1)
    width = float(values[0] - values[-1])
    told = number > 0 or not found.rest or found.steps >= _FEW_STEPS
    return Bulk(
        float(values[edge]),
        float(errors[edge]),
        values[:number],
        errors[:number],
        told and (float(errors[edge]) <= _EDGE * width or width == 0),
    )


def _spacing(values: Tensor, counts: Tensor) -> float:
    """The mean distance between the ten largest eigenvalues that nodes, descending, count.

    Infinite where there are fewer: a gap is then wide beside nothing.
    """
    # Half of a node's eigenvalues lie above it.
    passed = counts.cumsum(0) - counts / 2
    wanted = min(float(passed[0]), 0.5) + _BELOW - 1
    last = int(torch.searchsorted(passed, wanted))
    if last == len(values):
        return math.inf
    if last == 0:
        return 0.0
    share = (wanted - float(passed[last - 1])) / float(passed[last] - passed[last - 1])
    place = float(values[last - 1]) + share * float(values[last] - values[last - 1])
    return (float(values[0]) - place) / (_BELOW - 1)


def _pieces(found: Quadrature) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All nodes with the widths to their left and right, and their weights, of all probes."""
    known = found.known
    span = float(found.nodes()[0].abs().max()) or 1.0
    floor = max(_NARROW_AT_ZERO * span, found.rounding)
    share = torch.full_like(known, 1 / found.size)
    parts = [(known, torch.zeros_like(known), torch.zeros_like(known), share)]
    ends = (found.top[-1:], found.bottom[:1])
    parts += [_spread(probe, len(found.rest), *ends) for probe in found.rest]
    values, left, right, weights = (torch.cat(each) for each in zip(*parts, strict=True))
    least = _NARROW * values.abs()
    left, right = torch.maximum(left, least), torch.maximum(right, least)
    at_zero = values == 0
    left, right = left.clamp(min=floor), right.clamp(min=floor)
    if not bool((values < 0).any()):
        left = torch.minimum(left, values)
    if not bool((values > 0).any()):
        right = torch.minimum(right, -values)
    # An eigenvalue of zero is none below it.
    left = torch.where(at_zero, torch.zeros_like(left), left)
    right = torch.where(at_zero, right.clamp(min=floor), right)
    return values, left, right, weights


def _spread(
    probe: Nodes, probes: int, above: Tensor, below: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A probe's nodes, how far their masses reach to the left and to the right, and the masses.

    The outermost nodes reach as far out as in, but not beyond half way to what is known there.
    """
    values, reach = probe.values, 3**0.5 * probe.residuals
    gaps = (values[:-1] - values[1:]) / 2
    inner = gaps if len(gaps) else torch.zeros(1, dtype=values.dtype)
    first, last = inner[:1], inner[-1:]
    if len(above):
        first = torch.minimum(first, (above - values[:1]) / 2)
    if len(below):
        last = torch.minimum(last, (values[-1:] - below) / 2)
    right = torch.minimum(reach, torch.cat([first, gaps]))
    left = torch.minimum(reach, torch.cat([gaps, last]))
    return values, left.clamp(min=0), right.clamp(min=0), probe.weights / probes


def _distribution(
    places: Tensor, values: Tensor, left: Tensor, right: Tensor, weights: Tensor
) -> Tensor:
    """The mass below each of `places`."""
    below = torch.zeros_like(places)
    tiny = torch.finfo(places.dtype).tiny
    for low, width in ((values - left, left), (values, right)):
        share = ((places[:, None] - low) / width.clamp(min=tiny)).clamp(0, 1)
        below += share @ (weights / 2)
    return below


def _grid(
    found: Quadrature, values: Tensor, left: Tensor, right: Tensor, weights: Tensor
) -> Tensor:
    """The points: even, logarithmic to both sides of zero, at equal masses, and around outliers."""
    low, high = float((values - left).min()), float((values + right).max())
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    points = [torch.linspace(low, high, _EVEN, dtype=torch.float64)]
    span = max(abs(low), abs(high))
    floor = max(_NARROW_AT_ZERO * span, found.rounding)
    decades = torch.logspace(0, 1, _LOGARITHMIC, dtype=torch.float64).log10()
    away = floor * (span / floor) ** decades / 2
    # Beside zero stands a point just below it, so that no interval holds both a spike at zero and
    # what is negative.
    points += [away, -away, torch.tensor([0.0, -_BESIDE * floor], dtype=torch.float64)]
    order = values.argsort()
    passed = weights[order].cumsum(0)
    levels = torch.linspace(0, float(passed[-1]), _BY_MASS, dtype=torch.float64)
    index = torch.searchsorted(passed, levels).clamp(max=len(passed) - 1)
    points.append(values[order][index])
    sharp = torch.cat([found.top[:_MOST_SHARP], found.bottom[-_MOST_SHARP:]])
    widths = (_NARROW * sharp.abs()).clamp(min=floor)
    points += [sharp + place * widths for place in _AROUND]
    grid = torch.cat(points).sort().values
    grid = grid[(grid >= low) & (grid <= high)]
    # Two points nearer than rounding have no width between them.
    apart = torch.ones_like(grid, dtype=torch.bool)
    apart[1:] = grid.diff() > 0.1 * _BESIDE * floor
    kept: Tensor = grid[apart]
    return kept
