"""An optimizer's path on a line or plane: its principal axes, and the projection of its points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import SharpError, counted, setting
from sharpcli.landscape.frame import Frame
from sharpcli.linalg.orthogonal import extend

__all__ = ["PrincipalAxes", "Projection", "principal_axes", "project"]

# Entries of the points in one chunk, which has T times as many numbers in float64.
_CHUNK = {"cpu": 2**14, "cuda": 2**18}
# A principal axis with a smaller share of the variance than this many machine epsilons (times the
# number of points) is rounding of the Gram matrix.
_GRAM_ROUNDING = 16
# 1 − |cosine| below which two axes are one: an angle of about a millionth.
_PARALLEL = 1e-12


@dataclass(frozen=True)
class PrincipalAxes:
    """Orthonormal directions (n,), and each one's share of Σ‖θ_t − θ_final‖²."""

    directions: tuple[Tensor, ...]
    explained_variance: tuple[float, ...]


@dataclass(frozen=True)
class Projection:
    """The projection of points on a line or plane.

    Each point has `coordinates` (d,) by least squares, and `unseen`, the share ‖rest‖ / ‖distance
    from the origin‖ that the frame does not show (0 for the origin itself). `explained_variance`
    (d,) is the share of Σ‖distance‖² that each axis shows alone, `explained_together` the share of
    both; these are 1 if all points are the origin. If the axes are not orthogonal, the shares do
    not add up to `explained_together`.
    """

    coordinates: tuple[tuple[float, ...], ...]
    unseen: tuple[float, ...]
    explained_variance: tuple[float, ...]
    explained_together: float


def principal_axes(points: Sequence[Tensor], final: Tensor, count: int = 2) -> PrincipalAxes:
    """The first `count` principal axes of θ_t − θ_final for points θ_t (n,) of a path.

    The mean is not subtracted. So the plane goes through θ_final, and among such planes it has the
    least Σ‖rest‖² (Li et al. 2018, section 7); with the mean subtracted, as in PCA routines, it
    would go through the path's mean. The sign of each axis makes the farthest point's coordinate
    positive.

    Raises:
        SharpError: the path spans fewer than `count` axes beyond the rounding of its points.

    Cost: 2·T²·n operations in float64 through the (T, T) Gram matrix, two passes over the points,
    and memory for the axes only.
    """
    if not points:
        raise SharpError(
            "a path needs at least one checkpoint beside the final one",
            "name the checkpoints that were saved on the way",
        )
    gram = torch.zeros(len(points), len(points), dtype=torch.float64)
    square = 0.0
    for start, stop in _chunks(final):
        away = _away(points, final[start:stop], start, stop)
        gram += (away @ away.T).cpu()
        square += float(_wide(final[start:stop]).square().sum())
    _check_finite(gram, square)
    values, weights = torch.linalg.eigh(gram)
    values, weights = values.flip(0)[:count].clamp_min(0.0), weights.flip(1)[:, :count]
    lengths = values.sqrt()
    epsilon = max(torch.finfo(point.dtype).eps for point in (*points, final))
    # Each point, also θ_final, was rounded to its dtype: by at most epsilon/2 of its norm.
    stored = epsilon * math.sqrt(len(points)) * (math.sqrt(square) + float(lengths[0]))
    machine = _GRAM_ROUNDING * len(points) * torch.finfo(torch.float64).eps
    limit = max(stored, math.sqrt(machine) * float(lengths[0]))
    others = int((gram.diagonal() > 0).sum())  # θ_final may be among the points
    _check_rank(int((lengths > limit).sum()), others, count)
    farthest = weights.abs().argmax(0, keepdim=True)
    weights = weights * weights.gather(0, farthest).sign() / lengths
    axes = torch.empty(count, len(final), dtype=final.dtype, device=final.device)
    for start, stop in _chunks(final):
        away = _away(points, final[start:stop], start, stop)
        axes[:, start:stop] = (weights.T.to(away.device) @ away).to(axes)
    # Orthogonalise: a second axis far smaller than the first shows the Gram matrix's rounding.
    axes, _ = extend(axes, axes[:0], 1.0, torch.Generator())
    shares = values / gram.trace()
    return PrincipalAxes(tuple(axes), tuple(shares.tolist()))


def project(points: Sequence[Tensor], frame: Frame) -> Projection:
    """The least-squares coordinates of points (n,) on a frame's axes, of any length and angle.

    If an axis is zero, or two are parallel, the smallest coordinates that fit are taken.

    Cost: two passes over points and anchors in float64, in slices.
    """
    d, count = frame.dimensions, len(points)
    gram, right = (torch.zeros(d, size, dtype=torch.float64) for size in (d, count))
    squares, rest = torch.zeros(2, count, dtype=torch.float64)
    for origin, axes, start, stop in _slices(frame):
        away = _away(points, origin, start, stop)
        gram += (axes @ axes.T).cpu()
        right += (axes @ away.T).cpu()
        squares += away.square().sum(1).cpu()
    lengths = gram.diagonal().sqrt()
    lengths = torch.where(lengths == 0, 1.0, lengths)
    # With unit axes, since lengths may differ by orders of magnitude whatever the angle.
    cosines = gram / lengths[:, None] / lengths
    inverse = torch.linalg.pinv(cosines, rtol=_PARALLEL, hermitian=True)
    coordinates = (inverse @ (right / lengths[:, None]) / lengths[:, None]).T
    for origin, axes, start, stop in _slices(frame):
        away = _away(points, origin, start, stop)
        rest += (away - coordinates.to(axes.device) @ axes).square().sum(1).cpu()
    total = float(squares.sum())
    alone = [float(row.square().sum()) for row in right / lengths[:, None]]
    return Projection(
        tuple(tuple(row) for row in coordinates.tolist()),
        tuple(torch.where(squares == 0, 0.0, (rest / squares).sqrt().clamp_max(1.0)).tolist()),
        tuple(share / total if total else 1.0 for share in alone),
        max(1 - float(rest.sum()) / total, 0.0) if total else 1.0,
    )


def _chunks(like: Tensor) -> Iterator[tuple[int, int]]:
    """Bounds of slices of a vector (n,), small enough to hold T of them in float64."""
    size, chunk = like.shape[-1], _CHUNK.get(like.device.type, _CHUNK["cpu"])
    for start in range(0, size, chunk):
        yield start, min(start + chunk, size)


def _slices(frame: Frame) -> Iterator[tuple[Tensor, Tensor, int, int]]:
    """A frame's origin (m,) and axes (d, m) in float64, in slices of m entries."""
    for start, stop in _chunks(frame.anchors):
        anchors = _wide(frame.anchors[:, start:stop])
        origin, axes = frame.origin.to(anchors.device), frame.axes.to(anchors.device)
        yield origin @ anchors, axes.T @ anchors, start, stop


def _away(points: Sequence[Tensor], origin: Tensor, start: int, stop: int) -> Tensor:
    """θ_t − origin (T, m) in float64 for entries `start` to `stop` of the points."""
    origin = _wide(origin)
    return torch.stack([_wide(p.detach()[start:stop]).to(origin.device) - origin for p in points])


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in float64, on the CPU if the device has no float64."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def _check_finite(gram: Tensor, square: float) -> None:
    bad = (~gram.diagonal().isfinite()).nonzero().flatten().tolist()
    if bad and math.isfinite(square):
        raise SharpError(
            f"checkpoint {bad[0] + 1} of the path holds NaN or Inf",
            "leave out the checkpoints from after the run diverged",
        )
    if bad:
        raise SharpError(
            "the final checkpoint of the path holds NaN or Inf",
            "name a checkpoint from before the run diverged",
        )


def _check_rank(rank: int, others: int, count: int) -> None:
    """Raise `SharpError` if the path has too few axes; `others` points differ from the last."""
    if rank == 0:
        raise SharpError(
            "every checkpoint of the path equals the final one: there is no path to show",
            "name the checkpoints that were saved on the way, or use "
            f"{setting('directions', 'random')}",
        )
    if rank < count:
        said = "one other checkpoint" if others == 1 else counted(others, "other checkpoint")
        raise SharpError(
            f"the path's {said} and the final one lie on a line: they span no plane",
            "name more checkpoints of the run, draw a line, or use "
            f"{setting('directions', 'random')}",
        )
