"""The spectral density of a quadrature."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.linalg.probes import Nodes
from sharpcli.linalg.quadrature import Quadrature

__all__ = ["density"]

# Half-width of a single eigenvalue's peak, as a share of the eigenvalue: narrow on any axis, and
# never across zero.
_NARROW = 2e-3
# The same at zero, as a share of the largest eigenvalue.
_NARROW_AT_ZERO = 1e-6
# Points of the grid: evenly spaced, logarithmically spaced away from zero, at equal masses, and
# around each outlier.
_EVEN, _LOGARITHMIC, _BY_MASS = 400, 200, 200
_AROUND = (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0)
_MOST_SHARP = 64
_BESIDE = 1e-3


def density(found: Quadrature) -> tuple[Tensor, Tensor]:
    """Compute the spectral density on a grid that is finer where the density has more detail.

    The density at a point is the mass around it divided by the width around it (half way to its
    neighbours), so the trapezoidal rule returns every mass, 1 in all. Half of a node's mass is
    spread evenly to each side: as far as its Ritz vector's spread (√3 residuals, its standard
    deviation), at most half way to the next node, and not beyond zero if no eigenvalue is there. So
    resolved eigenvalues and a spike at zero stay narrow, and between nodes of a continuous bulk the
    distribution is interpolated (the midpoints of the Chebyshev–Markov–Stieltjes bounds).

    Returns:
        The grid (g,), ascending, and the density there (g,), whose integral is 1.

    >>> import torch
    >>> from sharpcli.linalg.operator import Dense
    >>> from sharpcli.linalg.quadrature import quadrature
    >>> matrix = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    >>> grid, values = density(quadrature(Dense(matrix), probes=1, steps=4))
    >>> near_zero = grid.abs() < 0.5
    >>> round(float(torch.trapezoid(values[near_zero], grid[near_zero])), 3)
    0.5
    """
    pieces = _pieces(found)
    grid = _grid(found, *pieces)
    edges = torch.cat([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    mass = _distribution(edges, *pieces).diff()
    return grid, mass / edges.diff()


def _pieces(found: Quadrature) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nodes of all probes, their widths to the left and to the right, and their weights."""
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
    # A zero eigenvalue must not put mass below zero.
    left = torch.where(at_zero, torch.zeros_like(left), left)
    right = torch.where(at_zero, right.clamp(min=floor), right)
    return values, left, right, weights


def _spread(
    probe: Nodes, probes: int, above: Tensor, below: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A probe's nodes, how far their masses reach to the left and to the right, and the masses.

    The outermost nodes reach as far outward as inward, at most half way to the known eigenvalues.
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
    """The grid: even, logarithmic on both sides of zero, at equal masses, and around outliers."""
    low, high = float((values - left).min()), float((values + right).max())
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    points = [torch.linspace(low, high, _EVEN, dtype=torch.float64)]
    span = max(abs(low), abs(high))
    floor = max(_NARROW_AT_ZERO * span, found.rounding)
    decades = torch.logspace(0, 1, _LOGARITHMIC, dtype=torch.float64).log10()
    away = floor * (span / floor) ** decades / 2
    # A point just below zero keeps any interval from holding both a spike at zero and negative
    # values.
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
    # Points closer than rounding have no width between them.
    apart = torch.ones_like(grid, dtype=torch.bool)
    apart[1:] = grid.diff() > 0.1 * _BESIDE * floor
    kept: Tensor = grid[apart]
    return kept
