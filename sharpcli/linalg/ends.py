"""One end of a spectrum in a Krylov space: values, their errors, and what may have been missed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpcli.linalg.krylov import Krylov
from sharpcli.linalg.missed import hidden_shares, missed_probability

__all__ = ["MISSED", "End", "both_ends", "is_settled", "without_missed"]

# The probability that a value is not the i-th of the spectrum because the random start hides an
# eigenvector beyond it (`missed`). It costs no product: on 784-512-512-10 the search for ten pairs
# at 1e-3 ends as early as without this check.
MISSED = 1e-3
# A residual must also be at most this share of the value itself.
_SHARE = 0.1
# A smallest value is sought until its error is at most this share of its distance from zero.
# Curvatures pile up at zero. Until then a Ritz vector may be a mixture of that pile, with an
# arbitrarily small residual, while the true end stays hidden: on three networks the search showed
# 0.0001(23), -0.000(10) and 0.0001(22) where the ends were -0.0105, -0.0427 and -0.0054.
_SETTLED = 0.3
# A Ritz value accounts for any eigenvector within this many of its errors. The start's share of the
# Ritz vector falls as (error/distance)², so closer in it is no evidence for or against another.
_WINDOW = 100.0
# Points tested for missed eigenvalues on each side of a Ritz value, and how many widths of the
# spectrum beyond the outermost.
_POINTS, _BEYOND = 16, 4.0
# With many values there are fewer points on each side: this many in all, at least four a side. The
# chance falls steadily away from a Ritz value, so a coarser step only widens the open stretch.
_POINTS_IN_ALL, _FEWEST_POINTS = 1600, 4


@dataclass(frozen=True)
class End:
    """The `count` wanted Ritz values of one end and all values behind them, from the outside in.

    `sign` is −1 at the bottom, where `values` are negated so that they descend. `limits` are the
    errors allowed for the wanted values, `floor` is the total error from rounding, and `reach` is
    how far beyond each wanted value an eigenvalue may have been missed.
    """

    sign: float
    values: Tensor
    residuals: Tensor
    floor: float
    limits: Tensor
    reach: Tensor
    complete: bool

    @property
    def count(self) -> int:
        """The number of wanted values."""
        return len(self.limits)

    @property
    def errors(self) -> Tensor:
        """Bounds on the distance of each wanted value from the eigenvalue of its index (count,)."""
        floor = torch.tensor(self.floor, dtype=torch.float64)
        return torch.maximum(torch.hypot(self.residuals[: self.count], floor), self.reach)

    @property
    def met(self) -> list[bool]:
        """Whether each residual is within its limit."""
        return ((self.residuals[: self.count] <= self.limits) | self.complete).tolist()

    @property
    def converged(self) -> list[bool]:
        """Whether each residual, and what may have been missed, is within the limit.

        At the bottom an error that is small against its value is enough.
        """
        # Near a multiple eigenvalue nothing can be excluded within the window of its errors.
        sure = self.reach <= self.limits.clamp_min(_WINDOW * self.floor)
        if self.sign < 0:
            sure |= self.errors <= _SETTLED * self.values[: self.count].abs()
        return [met and one for met, one in zip(self.met, sure.tolist(), strict=True)]

    @property
    def settled(self) -> list[bool]:
        """Whether more products would add little to what is known of each value."""
        known = self.residuals[: self.count] <= self.floor
        rounded = (known & (self.reach <= _WINDOW * self.floor)).tolist()
        pairs = zip(self.values.tolist(), self.errors.tolist(), rounded, strict=False)
        return [self.complete or done or is_settled(value, error) for value, error, done in pairs]

    def cluster(self) -> int:
        """The most values that agree within their errors and have other wanted values behind them.

        A missing copy of the last wanted value would not change the answer, so a cluster that
        reaches the last wanted value does not count.
        """
        errors = self.residuals + self.floor
        apart = (self.values[:-1] - self.values[1:] > errors[:-1] + errors[1:]).tolist()
        largest, count = 0, 1
        for alone in apart[: max(self.count - 1, 0)]:
            largest, count = (max(largest, count), 1) if alone else (largest, count + 1)
        return largest


def is_settled(value: float, error: float) -> bool:
    """Whether a smallest Ritz value is clear of the many eigenvalues at zero."""
    return error <= _SETTLED * abs(value)


def both_ends(space: Krylov, k: int, smallest: int, tolerance: float) -> tuple[End, End]:
    """The k largest and the `smallest` smallest Ritz values, before the check for missed ones.

    Residuals may be `tolerance`·|λ1|, and for the largest also a tenth of |λᵢ|, but never less than
    rounding.
    """
    values, _, residuals = space.ritz()
    floor = math.hypot(space.rounding, space.dropped)
    limit = max(tolerance * float(values[0].abs()), floor)

    shares = (_SHARE * values[:k].abs()).clamp(min=floor, max=limit)
    alike = torch.full((min(smallest, len(values)),), limit, dtype=torch.float64)

    def end(sign: float, own: Tensor, errors: Tensor, limits: Tensor) -> End:
        return End(sign, own, errors, floor, limits, torch.zeros_like(limits), space.complete)

    return (
        end(1.0, values, residuals, shares),
        end(-1.0, -values.flip(0), residuals.flip(0), alike),
    )


def without_missed(end: End, space: Krylov, *, exact: bool = False) -> End:
    """Set `reach`, the distance beyond each wanted value where eigenvalues are not excluded.

    It is 0 if the random start hides an eigenvector that no Ritz value accounts for with
    probability at most `MISSED`. `exact` ignores what rounding may have hidden.
    """
    if end.complete or not end.count:
        return end
    errors = end.residuals + end.floor
    points = _places(end.values, errors, end.count)
    size = space.rows.shape[1]
    noise = 0.0 if exact else math.hypot(space.noise, space.dropped)
    shares = hidden_shares(space.history(), end.sign * points, noise)
    near = ((points[:, None] - end.values).abs() <= _WINDOW * errors).sum(1)
    chance = missed_probability(shares, 0, size)
    for accounted in range(1, shares.shape[1]):
        fewer = torch.minimum(chance, missed_probability(shares, accounted, size))
        chance = torch.where(near >= accounted, fewer, chance)
    reach = torch.zeros(end.count, dtype=torch.float64)
    stretches = _open_stretches(points, chance)
    for index, (value, error) in enumerate(zip(end.values[: end.count], errors, strict=False)):
        beyond = [each for each in stretches if each[0] > value + 1.01 * error]
        if not beyond:
            continue
        # Each stretch may hide one eigenvalue, which shifts the index of all values after it by
        # one.
        tops = torch.tensor([top for top, _ in beyond], dtype=torch.float64)
        number = torch.cat([end.values[: index + 1], tops]).sort(descending=True).values[index]
        many = max((top for top, more in beyond if more), default=float(number))
        reach[index] = max(many, float(number)) - value
    return replace(end, reach=reach)


def _open_stretches(points: Tensor, chance: Tensor) -> list[tuple[float, bool]]:
    """Stretches of ascending `points` (p,) where an eigenvalue may have been missed.

    Returns the far end of each, since nothing is known between an open point and the next, and
    whether it may hide two: the start hides two with the square of the `chance` (p,) of one.
    """
    found: list[tuple[float, bool]] = []
    ends, opens = [*points.tolist()[1:], float(points[-1])], chance.tolist()
    for index, (far, each) in enumerate(zip(ends, opens, strict=True)):
        if each <= MISSED:
            continue
        more = each > MISSED**0.5
        if index and opens[index - 1] > MISSED:
            more = more or found.pop()[1]
        found.append((far, more))
    return found


def _places(values: Tensor, errors: Tensor, count: int) -> Tensor:
    """Points from the `count`-th of the descending values outward (p,), denser near each value."""
    tiny = torch.finfo(torch.float64).tiny
    width = max(float(values[0] - values[-1]), float(values.abs().max()), tiny)
    number = max(_FEWEST_POINTS, min(_POINTS, _POINTS_IN_ALL // count))
    steps = torch.linspace(0, 1, number, dtype=torch.float64)
    points = [values[:count]]
    for index in range(count):
        outer = float(values[index - 1] - values[index]) / 2 if index else _BEYOND * width
        inner = float(values[index] - values[index + 1]) / 2 if index + 1 < count else 0.0
        for way, room in ((1.0, outer), (-1.0, inner)):
            first = max(min(float(errors[index]), room), tiny)
            if room > 0:
                points.append(values[index] + way * first * (room / first) ** steps)
    return torch.cat(points).sort().values
