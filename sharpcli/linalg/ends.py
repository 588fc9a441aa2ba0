"""What a Krylov space knows of one end of a spectrum: values, how far off, and what it may miss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpcli.linalg.krylov import Krylov
from sharpcli.linalg.missed import hidden_shares, missed_probability

__all__ = ["MISSED", "End", "both_ends", "is_settled", "without_missed"]

# A value is the i-th of the spectrum but for this probability: that of the random start hiding a
# further eigenvector beyond it (`missed`). It costs no product: on 784-512-512-10 the search for
# ten pairs at 1e-3 ends with it where it ended without.
MISSED = 1e-3
# A residual is at most this share of the value itself, too.
_SHARE = 0.1
# A smallest value is sought until its error is at most this share of its distance from zero.
# Curvatures pile up at zero, and until then a Ritz vector may be a mixture of that pile, with a
# residual as small as you like and the true end unseen: on three networks values of 0.0001(23),
# -0.000(10) and 0.0001(22) stood for -0.0105, -0.0427 and -0.0054.
_SETTLED = 0.3
# A Ritz value accounts for an eigenvector as far as this many of its errors. The start's share of
# the Ritz vector falls as (error/distance)²: nearer it is no evidence for or against another one.
_WINDOW = 100.0
# Points on each side of a Ritz value at which missed eigenvalues are looked for, and how many
# widths of the spectrum beyond the outermost.
_POINTS, _BEYOND = 16, 4.0
# Of many values there are fewer on each side, this many in all, but never below four: the chance
# falls off steadily from a Ritz value, and a coarser step only widens what stays open.
_POINTS_IN_ALL, _FEWEST_POINTS = 1600, 4


@dataclass(frozen=True)
class End:
    """The `count` wanted Ritz values of one end and all others behind them, from the outside in.

    `sign` is −1 at the bottom, where `values` are negated so that they descend. `limits` are what
    the wanted values' errors may be, `floor` what rounding leaves in all, `reach` how far beyond
    each wanted value eigenvalues may have been missed.
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
        """How many values are wanted."""
        return len(self.limits)

    @property
    def errors(self) -> Tensor:
        """How far each wanted value may be from the eigenvalue of its number (count,)."""
        floor = torch.tensor(self.floor, dtype=torch.float64)
        return torch.maximum(torch.hypot(self.residuals[: self.count], floor), self.reach)

    @property
    def met(self) -> list[bool]:
        """Whether each residual is within its limit."""
        return ((self.residuals[: self.count] <= self.limits) | self.complete).tolist()

    @property
    def converged(self) -> list[bool]:
        """Whether each residual, and what may have been missed, is within the limit.

        At the bottom an error is also small where it is small against the value.
        """
        # Near a multiple eigenvalue nothing can be excluded within the window of its errors.
        sure = self.reach <= self.limits.clamp_min(_WINDOW * self.floor)
        if self.sign < 0:
            sure |= self.errors <= _SETTLED * self.values[: self.count].abs()
        return [met and one for met, one in zip(self.met, sure.tolist(), strict=True)]

    @property
    def settled(self) -> list[bool]:
        """Whether more products would tell little more of each value."""
        known = self.residuals[: self.count] <= self.floor
        rounded = (known & (self.reach <= _WINDOW * self.floor)).tolist()
        pairs = zip(self.values.tolist(), self.errors.tolist(), rounded, strict=False)
        return [self.complete or done or is_settled(value, error) for value, error, done in pairs]

    def cluster(self) -> int:
        """Most values that agree within their errors and have other wanted ones behind them.

        A missing copy of the last wanted value would not change the answer, so a cluster that runs
        into the end of what is wanted does not count.
        """
        errors = self.residuals + self.floor
        apart = (self.values[:-1] - self.values[1:] > errors[:-1] + errors[1:]).tolist()
        largest, count = 0, 1
        for alone in apart[: max(self.count - 1, 0)]:
            largest, count = (max(largest, count), 1) if alone else (largest, count + 1)
        return largest


def is_settled(value: float, error: float) -> bool:
    """Whether a smallest Ritz value stands clear of the many eigenvalues at zero."""
    return error <= _SETTLED * abs(value)


def both_ends(space: Krylov, k: int, smallest: int, tolerance: float) -> tuple[End, End]:
    """The k largest and the `smallest` smallest Ritz values, before missed ones are looked for.

    Residuals may be `tolerance`·|λ1|, those of the largest a tenth of |λᵢ| as well, but never less
    than rounding leaves.
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
    """The end with its `reach`: how far beyond each wanted value eigenvalues are not excluded.

    It is 0 where the random start would have had to hide any that no Ritz value accounts for, with
    a probability of at most `MISSED`. `exact` leaves aside what rounding may have hidden.
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
        # One missed eigenvalue a stretch moves the numbers of those after it by one.
        tops = torch.tensor([top for top, _ in beyond], dtype=torch.float64)
        number = torch.cat([end.values[: index + 1], tops]).sort(descending=True).values[index]
        many = max((top for top, more in beyond if more), default=float(number))
        reach[index] = max(many, float(number)) - value
    return replace(end, reach=reach)


def _open_stretches(points: Tensor, chance: Tensor) -> list[tuple[float, bool]]:
    """Stretches of ascending `points` where an eigenvalue may have been missed, by `chance` (p,).

    The far end of each, as between an open point and the next one nothing is known; and whether
    two or more may have been: that the start hides two has the chance of one, squared.
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
    """Points from the `count`-th of descending values outward (p,), denser towards each value."""
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
