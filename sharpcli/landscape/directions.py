"""Random directions around a point, and the scaling of directions by the weights.

A filter is a slice along a tensor's first dimension. For a convolution (also a grouped one) that is
an output channel, for a dense layer the weights into one unit, as in Li et al. 2018. For an
embedding it is a row, and for a transposed convolution an *input* channel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sharpcli.errors import SharpError, UsageError, did_you_mean, setting
from sharpcli.linalg.orthogonal import dots
from sharpcli.objective.network import Network

__all__ = [
    "NORMALIZATIONS",
    "check_normalization",
    "cosine",
    "normalize_direction",
    "random_directions",
]

NORMALIZATIONS = ("filter", "layer", "none")


def check_normalization(name: str) -> None:
    """Raise `UsageError` unless `name` is one of `NORMALIZATIONS`."""
    if name not in NORMALIZATIONS:
        raise UsageError(
            f"{setting('normalize', name)}: there is no such normalization",
            did_you_mean(name, NORMALIZATIONS),
        )


def random_directions(
    network: Network, theta: Tensor, count: int = 2, *, seed: int = 0, normalize: str = "filter"
) -> list[Tensor]:
    """Draw one or two N(0, 1) directions (n,) at θ (n,), scaled by its weights and orthogonal.

    The second direction is made orthogonal to the first inside each filter (or tensor). Filters of
    a single entry have no room for that, so the others lean towards or away from the first until
    the inner products cancel. If they cannot (a few single entries outweigh the rest), `cosine`
    gives the remaining angle. The first direction does not depend on `count`.

    Args:
        network: The network whose parameters are θ.
        theta: The point θ (n,).
        count: One or two.
        seed: Draws and arithmetic are float64 on the CPU, so a seed gives the same directions on
            every device. The result has θ's dtype and device.
        normalize: "filter": each filter of a direction has the norm of θ's (Li et al. 2018, section
            4). "layer": each tensor has. Both leave out tensors of rank one and less (biases,
            norms), as that paper's code does. "none": as drawn, in all tensors; the second
            direction keeps its norm.

    Raises:
        ValueError: `count` is neither one nor two.

    A `UsageError` reports an unknown `normalize`, a `SharpError` that no weight is left to move.

    Cost: a few passes over 24 bytes per parameter.
    """
    check_normalization(normalize)
    if count not in (1, 2):
        raise ValueError(f"{count} directions")
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(count):
        direction = torch.randn(network.size, generator=generator, dtype=torch.float64)
        _scale(network, direction, theta, normalize)
        drawn.append(direction)
    if count == 2:
        groups = [_groups(network, direction, normalize) for direction in drawn]
        _orthogonalize(*groups)
    return [direction.to(theta) for direction in drawn]


def normalize_direction(
    network: Network, theta: Tensor, direction: Tensor, normalize: str
) -> Tensor:
    """Scale a direction (n,) to the norms of θ's filters or tensors; with "none", do not scale.

    Tensors of rank one and less become zero, as do filters in which θ is zero or the direction is
    zero up to rounding. A `UsageError` reports an unknown `normalize`, a `SharpError` that nothing
    is left.
    """
    check_normalization(normalize)
    scaled = direction.detach().cpu().double().clone()
    _scale(network, scaled, theta, normalize, torch.finfo(direction.dtype).eps)
    return scaled.to(direction)


def cosine(first: Tensor, second: Tensor) -> float:
    """The cosine of the angle between two vectors (n,); 0 if one of them is zero."""
    a, b = first[None], second[None]
    length = math.sqrt(float(dots(a, a))) * math.sqrt(float(dots(b, b)))
    return float(dots(a, b)) / length if length else 0.0


def _groups(network: Network, vector: Tensor, normalize: str) -> list[Tensor]:
    """Views (groups, entries) of a vector (n,); each group is scaled by one factor."""
    if normalize == "none":
        return [vector[None]]
    parts = [part for part in network.unflatten(vector) if part.ndim >= 2]
    return [part.flatten(1) if normalize == "filter" else part.view(1, -1) for part in parts]


def _scale(
    network: Network, direction: Tensor, theta: Tensor, normalize: str, rounding: float = 0.0
) -> None:
    """Scale a float64 direction on the CPU to the norms of θ's groups, in place.

    Groups with less than `rounding` of the direction's norm become zero, not full-size noise.

    Raises:
        SharpError: the direction becomes zero.
    """
    if normalize == "none":
        return
    weights = _groups(network, theta.detach().cpu(), normalize)
    negligible = rounding * float(direction.norm())
    for group, weight in zip(_groups(network, direction, normalize), weights, strict=True):
        norms = group.norm(dim=1)
        factors = weight.double().norm(dim=1) / norms
        group.mul_(factors.where(norms > negligible, 0.0)[:, None])
    for part in network.unflatten(direction):
        if part.ndim < 2:
            part.zero_()
    if not bool(direction.any()):
        raise SharpError(
            f"{setting('normalize', normalize)} leaves nothing to move: where the direction is not "
            "zero, no tensor of two or more dimensions has a weight that is not",
            f"use {setting('normalize', 'none')}",
        )


def _orthogonalize(first: list[Tensor], second: list[Tensor]) -> None:
    """Make the second direction orthogonal to the first in place, keeping each group's norm.

    A group of several entries is made orthogonal by itself. Groups of one entry are parallel or
    opposite. Their sum is cancelled by giving all other groups the same cosine.
    """
    wide = [(a, b) for a, b in zip(first, second, strict=True) if a.shape[1] > 1]
    single = [(a, b) for a, b in zip(first, second, strict=True) if a.shape[1] == 1]
    room = 0.0
    for a, b in wide:
        lengths, norms = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
        room += float((lengths * norms).sum())
        b -= a * _ratio((a * b).sum(1, keepdim=True), lengths.square())
        b *= _ratio(norms, b.norm(dim=1, keepdim=True))
    excess = _balance(single, room)
    if not excess or not room:
        return
    lean = min(max(-excess / room, -1.0), 1.0)
    for a, b in wide:
        lengths, norms = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
        b.mul_(math.sqrt(1 - lean**2)).add_(a * _ratio(norms, lengths), alpha=lean)


def _balance(single: list[tuple[Tensor, Tensor]], room: float) -> float:
    """Σ a·b over groups of one entry, after flipping signs of b if the sum is beyond ±`room`."""
    if not single:
        return 0.0
    products = torch.cat([(a * b).squeeze(1) for a, b in single])
    excess = float(products.sum())
    signs = torch.ones_like(products)
    for index in products.abs().argsort(descending=True, stable=True).tolist():
        if abs(excess) <= room:
            break
        turned = excess - 2 * float(products[index])
        if abs(turned) < abs(excess):
            excess, signs[index] = turned, -1.0
    parts = torch.split(signs, [len(b) for _, b in single])
    for (_, b), part in zip(single, parts, strict=True):
        b *= part[:, None]
    return excess


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0."""
    return torch.where(denominator == 0, 0.0, numerator / denominator)
