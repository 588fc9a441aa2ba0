"""Lines and planes of parameter space: every point a weighted sum of a few anchor vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import SharpError

__all__ = ["Frame", "around", "line", "plane_through", "weighted_sum"]

# Least distance of C from the line AB, as a share of ‖C−A‖; below it, float32 rounding decides.
_OFF_THE_LINE = 1e-6


@dataclass(frozen=True)
class Frame:
    """The points θ(c) = Σ_k (origin + axes·c)_k anchor_k of a line (d = 1) or a plane (d = 2).

    `anchors` (K, n) are checkpoints, followed by directions. `origin` (K,) and `axes` (K, d),
    float64 on the CPU, give their weights at the coordinates c (d,). If one weight is one and the
    others are zero, θ is that anchor bit for bit. `places` are the checkpoints' coordinates.
    """

    anchors: Tensor
    origin: Tensor
    axes: Tensor
    places: tuple[tuple[float, ...], ...]

    @property
    def dimensions(self) -> int:
        """The number of coordinates of a point."""
        return self.axes.shape[1]

    def weights(self, coordinates: Sequence[float]) -> Tensor:
        """The anchors' weights (K,) at the coordinates (d,), float64."""
        return self.origin + self.axes @ torch.tensor(coordinates, dtype=torch.float64)

    def point(self, coordinates: Sequence[float]) -> Tensor:
        """θ (n,) at the coordinates (d,). Cost: one read of each anchor."""
        return weighted_sum(self.anchors, self.weights(coordinates))

    def direction(self, axis: int) -> Tensor:
        """dθ/dc along one axis, (n,)."""
        return weighted_sum(self.anchors, self.axes[:, axis])


def weighted_sum(anchors: Tensor, weights: Tensor) -> Tensor:
    """Σ_k weights_k anchors_k (n,); a single anchor with weight one is returned bit for bit."""
    total: Tensor | None = None
    for anchor, weight in zip(anchors, weights.tolist(), strict=True):
        if weight:
            total = weight * anchor if total is None else total.add_(anchor, alpha=weight)
    return torch.zeros_like(anchors[0]) if total is None else total


def line(a: Tensor, b: Tensor) -> Frame:
    """The line θ(α) = (1−α)A + αB: A at 0, B at 1; α is in units of ‖B−A‖."""
    axes = _vector(-1, 1).unsqueeze(1)
    return Frame(torch.stack([a, b]), _vector(1, 0), axes, ((0.0,), (1.0,)))


def plane_through(a: Tensor, b: Tensor, c: Tensor) -> Frame:
    """The plane through three points, with A = (0, 0) and B = (‖B−A‖, 0).

    The axes are û = (B−A)/‖B−A‖ and v̂ ∝ (C−A) − ⟨C−A, û⟩û, by Gram–Schmidt (Garipov et al. 2018,
    section 4.1). Coordinates are Euclidean distances between weights.

    Raises:
        SharpError: the three points do not span a plane.
    """
    to_b, to_c = (b - a).double(), (c - a).double()
    length = float(to_b.norm())
    if length == 0:
        raise SharpError("A and B are the same point", "name three different checkpoints")
    along = float(to_c @ to_b) / length
    height = float((to_c - to_b * (along / length)).norm())
    if height <= _OFF_THE_LINE * float(to_c.norm()):
        place = "the same point as A" if not height and not along else f"at α = {along / length:g}"
        raise SharpError(
            f"C lies on the line through A and B ({place}): the three span no plane",
            "leave C out to see the line, or name a third checkpoint off it",
        )
    per_alpha = _vector(-1 / length, 1 / length, 0)
    slant = along / length
    per_beta = _vector((slant - 1) / height, -slant / height, 1 / height)
    axes = torch.stack([per_alpha, per_beta], dim=1)
    places = ((0.0, 0.0), (length, 0.0), (along, height))
    return Frame(torch.stack([a, b, c]), _vector(1, 0, 0), axes, places)


def around(center: Tensor, directions: Sequence[Tensor]) -> Frame:
    """The frame θ(α[, β]) = center + α d₁ [+ β d₂] of directions (n,) of any length."""
    count = len(directions)
    axes = torch.zeros(count + 1, count, dtype=torch.float64)
    axes[1:] = torch.eye(count, dtype=torch.float64)
    anchors = torch.stack([center, *directions])
    return Frame(anchors, _vector(1, *[0] * count), axes, ((0.0,) * count,))


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
