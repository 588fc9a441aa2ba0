"""The largest loss in a ball around θ, for the worst case of adaptive sharpness."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sharpcli.linalg.ball import Ball, Norm, auto_pgd, tangent_ascent
from sharpcli.linalg.box import BoxMaximum, ValueAndGradient
from sharpcli.measures.box import Box
from sharpcli.measures.box_search import EVEN_POWER, Search, Searches, maxima
from sharpcli.measures.context import Context
from sharpcli.measures.subspace import FullSpace
from sharpcli.objective.objective import Objective
from sharpcli.objective.shards import shards, share_left
from sharpcli.runtime.randomness import own_generator

__all__ = ["Region", "Worst", "selection_bias", "worst", "worst_of_shards"]

# Auto-PGD's iterations, as in Andriushchenko et al. 2023.
_ITERATIONS = 20
# Steps by tangents of every start, how many starts climb on, and their most steps.
_SCOUT, _CLIMBERS, _CLIMB = 3, 3, 20
# Steps of the ascents on halves of a subset, which start near a maximum.
_HALF_STEPS = 8
# A rise of this many roundings of the loss is accurate to a few per cent; a rise by this share of
# 1 + L is accurate to 1e-4 in float32; and the most by which a search and float64 may differ.
_ROUNDINGS, _PLAIN_RISE, _DISAGREEMENT = 32, 1e-3, 0.1


@dataclass(frozen=True)
class Region:
    """The displacements δ with ‖δ ⊘ c‖ ≤ ρ, where c is |θ| (`adaptive`) or 1."""

    norm: Norm
    rho: float
    adaptive: bool

    @property
    def ball(self) -> Ball:
        """The unit ball of u = δ ⊘ (ρc)."""
        return Ball(self.norm)

    def radius(self, theta: Tensor) -> Tensor:
        """ρc (n,)."""
        return self.rho * (theta.abs() if self.adaptive else torch.ones_like(theta))


@dataclass(frozen=True)
class Worst:
    """The largest rises found, by maximiser, the best point u, and what they cost."""

    rises: dict[str, float]
    point: Tensor
    resolved: bool
    evaluations: int

    @property
    def value(self) -> float:
        """The largest rise."""
        return max(self.rises.values())


@dataclass(frozen=True)
class _RegionBox(Box):
    """The box |δ| ≤ ρc."""

    region: Region = Region("linf", 0.0, adaptive=True)

    @cached_property
    def bound(self) -> Tensor:
        return self.region.radius(self.theta)


def worst(searches: Searches, region: Region) -> Worst:
    """The largest rise in a region over all data: Auto-PGD, and what else finds higher points.

    Over a box the other maximisers are those of ε-sharpness, `corner` and `lbfgsb`; over a 2-norm
    ball `tangent`, steps to the maximum of the linear model from several starts. The best points
    are evaluated again in float64, inside the region, if the model supports it.

    Cost: 20 gradients by Auto-PGD, and about 50 more.
    """
    search = searches.of(FullSpace(), region.rho)
    points = _points(search, region)
    rises, resolved = _confirmed(searches, search, region, points)
    evaluations = sum(point.evaluations for point in points.values())
    if not resolved and (wider := searches.instead_of(search)) is not None:
        search, points = wider, _points(wider, region)
        rises, resolved = _confirmed(searches, search, region, points)
        evaluations += sum(point.evaluations for point in points.values())
    best = max(rises, key=lambda name: rises[name])
    return Worst(rises, points[best].point, resolved, evaluations)


def worst_of_shards(context: Context, region: Region, m: int, point: Tensor) -> list[Worst]:
    """The largest rise on each shard of about m examples, in the run's precision.

    One start is the worst `point` u of all data, so that the mean over shards is no smaller than
    the worst case of all. Cost: 20 gradients of all data by Auto-PGD, and about 30 by `tangent`.
    """
    count = max(1, round(context.objective.rows.count / m))
    found = []
    for number, shard in enumerate(shards(context.objective, context.seed, count)):
        at_theta = shard.gradient(context.theta)
        starts = [point.to(context.theta)]
        if at_theta[0] > 0:
            _, even = shard.gradient(context.theta, power=EVEN_POWER)
            starts.append(region.ball.farthest(region.radius(context.theta) * even))
        points = _ascents(shard, context, region, at_theta, starts)
        rises = {name: max(0.0, each.value - at_theta[0]) for name, each in points.items()}
        best = max(rises, key=lambda name: rises[name])
        evaluations = 2 + sum(each.evaluations for each in points.values())
        resolved = rises[best] > _rounding(shard.network.compute, at_theta[0])
        found.append(Worst(rises, points[best].point, resolved, evaluations))
        context.progress(number + 1, count)
    return found


def selection_bias(context: Context, region: Region, point: Tensor) -> float:
    """How much higher a subset's worst case is because the maximum fits the subset.

    Each half of the subset gets its own maximum, from the centre and from `point`. The excess of
    the halves' losses at their own maxima over those at each other's is, to second order, twice the
    bias of a half's worst case, which is inversely proportional to the number of examples. Cost:
    about 16 gradients of halves.
    """
    theta, objective = context.theta, context.objective
    radius = region.radius(theta)
    halves, places = list(shards(objective, context.seed, 2)), []
    for half in halves:
        function, start = _problem(half, theta, radius, half.gradient(theta))
        near = point.to(theta)
        tries = [tangent_ascent(function, *start, region.ball, iterations=_HALF_STEPS)]
        there = function(near)
        again = tangent_ascent(function, *there, region.ball, start=near, iterations=_HALF_STEPS)
        best = max([*tries, again], key=lambda each: each.value)
        places.append(theta + radius * best.point)
    higher = sum(
        half.loss(mine) - half.loss(other)
        for half, mine, other in zip(halves, places, places[::-1], strict=True)
    )
    return max(0.0, higher / 8 * share_left(objective))


def _points(search: Search, region: Region) -> dict[str, BoxMaximum]:
    """The best point u by each maximiser, with the loss there."""
    context = search.context
    if region.norm == "linf":
        box = _RegionBox(context.theta, FullSpace(), region.rho, region)
        found, _ = maxima(search, box)
        pgd = _auto_pgd(context.objective, context, region, context.value_and_gradient)
        return {"apgd": pgd, **found}
    before, starts = search.evaluations, _starts(search, region)
    points = _ascents(context.objective, context, region, context.value_and_gradient, starts)
    tangent, spent = points["tangent"], search.evaluations - before
    return points | {"tangent": replace(tangent, evaluations=tangent.evaluations + spent)}


def _starts(search: Search, region: Region) -> Iterator[Tensor]:
    """Points at the edge of the region where examples rise that are small at θ, or a shard's.

    Near a minimum a few examples dominate the gradient, and the highest point often belongs to
    others. On digits at ρ = 4 these starts found up to 1.5 times the rise. Cost: two gradients.
    """
    context = search.context
    radius = region.radius(context.theta)
    if context.value_and_gradient[0] > 0:
        yield region.ball.farthest(radius * search.even)
    if search.divisible:
        for gradient in search.shard_gradients():
            yield region.ball.farthest(radius * gradient)


def _ascents(
    objective: Objective,
    context: Context,
    region: Region,
    at_theta: tuple[float, Tensor],
    starts: Iterable[Tensor],
) -> dict[str, BoxMaximum]:
    """Auto-PGD, and ascents by tangents from the centre, from its end, and from `starts`.

    Every start climbs a few steps, and the best three climb on.
    """
    pgd = _auto_pgd(objective, context, region, at_theta)
    function, start = _problem(objective, context.theta, region.radius(context.theta), at_theta)
    first = tangent_ascent(function, *start, region.ball, iterations=_SCOUT)
    best, spent = [first], first.evaluations
    for point in itertools.chain([pgd.point], starts):
        found = _climbed(function, point, region, _SCOUT)
        spent += found.evaluations
        best = sorted([*best, found], key=lambda each: -each.value)[:_CLIMBERS]
    ends = [_climbed(function, each.point, region, _CLIMB) for each in best]
    spent += sum(each.evaluations for each in ends)
    end = max([*best, *ends], key=lambda each: each.value)
    return {"apgd": pgd, "tangent": BoxMaximum(end.value, end.point, spent)}


def _climbed(
    function: ValueAndGradient, point: Tensor, region: Region, iterations: int
) -> BoxMaximum:
    """An ascent by tangents from a point."""
    value, gradient = function(point)
    found = tangent_ascent(
        function, value, gradient, region.ball, start=point, iterations=iterations
    )
    return replace(found, evaluations=found.evaluations + 1)


def _auto_pgd(
    objective: Objective, context: Context, region: Region, at_theta: tuple[float, Tensor]
) -> BoxMaximum:
    """Auto-PGD from the centre, or from a random point if the gradient is zero there."""
    radius = region.radius(context.theta)
    function, start = _problem(objective, context.theta, radius, at_theta)
    if bool(start[1].any()):
        return auto_pgd(
            function, *start, region.ball, iterations=_ITERATIONS, progress=context.progress
        )
    generator = own_generator("start in a ball", context.seed)
    drawn = torch.randn(objective.size, generator=generator).to(context.theta)
    point = region.ball.farthest(drawn)
    there = function(point)
    found = auto_pgd(function, *there, region.ball, start=point, iterations=_ITERATIONS)
    if found.value < start[0]:
        found = BoxMaximum(start[0], torch.zeros_like(point), found.evaluations)
    return replace(found, evaluations=found.evaluations + 1)


def _problem(
    objective: Objective, theta: Tensor, radius: Tensor, at_theta: tuple[float, Tensor]
) -> tuple[ValueAndGradient, tuple[float, Tensor]]:
    """L at θ + ρc·u as a function of u with its gradient, and both at u = 0."""

    def function(point: Tensor) -> tuple[float, Tensor]:
        value, gradient = objective.gradient(theta + radius * point)
        return value, radius * gradient

    return function, (at_theta[0], radius * at_theta[1])


def _confirmed(
    searches: Searches, search: Search, region: Region, points: dict[str, BoxMaximum]
) -> tuple[dict[str, float], bool]:
    """The rises in float64, and whether the search resolved the largest.

    Rounding may move a point out of the region, and hides small rises, so the points are projected
    and evaluated in float64 if the model has it. Cost: a forward pass for each maximiser.
    """
    context = search.context
    loss, _ = context.value_and_gradient
    rises = {name: max(point.value - loss, 0.0) for name, point in points.items()}
    rise, compute = max(rises.values()), context.objective.network.compute
    plain = rise > _rounding(compute, loss)
    if compute == torch.float64:
        return rises, plain or loss == 0
    on_cpu = context.theta.device.type == "cpu"
    double = searches.double if on_cpu or rise <= _PLAIN_RISE * (1 + abs(loss)) else None
    if double is None:
        return rises, plain
    theta, objective = double.context.theta, double.context.objective
    for name, each in points.items():
        point = region.ball.project(each.point.double())
        there = objective.loss(theta + region.radius(theta) * point)
        rises[name] = max(there - double.loss, 0.0)
    exact = max(rises.values())
    return rises, exact > 0 and abs(rise - exact) <= _DISAGREEMENT * exact


def _rounding(compute: torch.dtype, loss: float) -> float:
    """What rounding may leave in a rise of the loss."""
    scale = abs(loss) if compute == torch.float64 else max(1.0, abs(loss))
    return _ROUNDINGS * torch.finfo(compute).eps * (scale if math.isfinite(scale) else 1.0)
