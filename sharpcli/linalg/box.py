"""Maxima of a function over the box [−1, 1]ᵖ, bounded from below by the best point evaluated.

No method ever leaves the box. `corner_ascent` and `projected_lbfgs` use values and gradients;
`best_corners` and `flip_ascent` evaluate many values at once, for small p.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.runtime.progress import Progress, silent

__all__ = [
    "BoxMaximum",
    "ValueAndGradient",
    "Values",
    "best_corners",
    "corner_ascent",
    "flip_ascent",
    "projected_lbfgs",
]

ValueAndGradient = Callable[[Tensor], tuple[float, Tensor]]
Values = Callable[[Tensor], Tensor]
"""Maps k points (k, p) to their values (k,)."""

# The most evaluations of one line search, and the factor by which it changes a step (Moré & Thuente
# 1994 also widen by four).
_LINE_EVALUATIONS = 4
_FACTOR = 4.0
# Sufficient increase (Armijo), the usual constant of Nocedal & Wright (2006).
_ARMIJO = 1e-4
# Corner ascents: every start climbs `_SCOUT` steps, the best four (or a quarter, if more) climb
# `_CLIMB` more, and the best one climbs on. Chosen by trial on minima with losses from 1e-1 to
# 1e-7. With fewer scouting steps a start is judged before the examples that matter at its end
# dominate.
_SCOUT, _CLIMB = 3, 3
_CLIMBERS, _SHARE = 4, 4
# Up to this many coordinates, pairs are flipped too: 496 pairs.
_PAIRED = 32


@dataclass(frozen=True)
class BoxMaximum:
    """The best point found in the box, its value, and the number of evaluations."""

    value: float
    point: Tensor
    evaluations: int


def corner_ascent(
    function: ValueAndGradient,
    value: float,
    gradient: Tensor,
    *,
    starts: Iterable[Tensor] = (),
    iterations: int = 10,
    progress: Progress = silent,
) -> BoxMaximum:
    """Maximise f by repeated steps to the corner u = sign(∇f(u)) where its linear model is largest.

    One ascent starts at the centre and one at each of `starts`. For convex f no step loses: it
    maximises the tangent plane, which lies below f. But many corners are fixed points, so all
    ascents climb a few steps and only the best go on.

    Args:
        function: returns f and its gradient (p,) at a point (p,).
        value: f at the centre of the box.
        gradient: its gradient there (p,).
        starts: further starting points (p,).
        iterations: the most steps of one ascent.
        progress: called with the steps done and the steps expected.

    Cost: one gradient a step: 10 for the centre alone, otherwise about 3 a start and 16 more.

    >>> import torch
    >>> def f(u):  # a convex parabola whose maximum over the box is 4 + 9 at (−1, 1)
    ...     centre = torch.tensor([1.0, -2.0])
    ...     return float(((u - centre) ** 2).sum()), 2 * (u - centre)
    >>> value, gradient = f(torch.zeros(2))
    >>> best = corner_ascent(f, value, gradient)
    >>> best.value, best.point.tolist()
    (13.0, [-1.0, 1.0])
    """
    centre = torch.zeros_like(gradient)
    first = _Climb(_corner(gradient, centre), value, centre.to(torch.int8))
    climbs = [first, *(_Climb(start.to(torch.int8), -math.inf, None) for start in starts)]
    total, evaluations = 0, 0
    rounds = [(len(climbs), _SCOUT), (max(_CLIMBERS, len(climbs) // _SHARE), _CLIMB)]
    rounds.append((1, max(iterations - _SCOUT - _CLIMB, 0)))
    if len(climbs) == 1:
        rounds = [(1, iterations)]
    for count, steps in rounds:
        climbs.sort(key=lambda climb: -climb.value)
        total += steps * min(count, len(climbs))
        for climb in climbs[:count]:
            for _ in range(steps):
                if climb.next is None:
                    break
                _ascend(climb, function, gradient)
                evaluations += 1
                progress(evaluations, total)
    best = max(climbs, key=lambda climb: climb.value)
    point = centre if best.point is None else best.point.to(gradient)
    return BoxMaximum(best.value, point, evaluations)


@dataclass
class _Climb:
    """One ascent over corners: its next point, and the best point so far.

    Points are corners (except the centre, all zeros), so one byte an entry is enough.
    """

    next: Tensor | None
    value: float
    point: Tensor | None


def _ascend(climb: _Climb, function: ValueAndGradient, like: Tensor) -> None:
    assert climb.next is not None
    here = climb.next
    value, gradient = function(here.to(like))
    if not math.isfinite(value):
        climb.next = None
        return
    if value > climb.value:
        climb.value, climb.point = value, here
    there = _corner(gradient, here)
    climb.next = None if torch.equal(there, here) else there


def _corner(gradient: Tensor, point: Tensor) -> Tensor:
    """sign(∇f), one byte an entry; an entry with slope 0 or NaN stays where it is."""
    return torch.where(gradient.abs() > 0, gradient.sign(), point).to(torch.int8)


def best_corners(
    values: Values,
    like: Tensor,
    *,
    keep: int = 1,
    chunk: int = 4096,
    progress: Progress = silent,
) -> list[BoxMaximum]:
    """Evaluate all 2ᵖ corners and return the `keep` best, best first; none if no value is finite.

    If f is convex in each coordinate, the first is the maximum over the box.

    Args:
        values: f at many points at once, (k, p) to (k,).
        like: a vector (p,) with the dtype and device of the points.
        keep: how many corners to return.
        chunk: how many corners to evaluate at once.
        progress: called with the corners done and the number of corners.

    Cost: 2ᵖ values.
    """
    dimensions = len(like)
    count = 2**dimensions
    places = torch.arange(dimensions)
    best = torch.empty(0, dtype=torch.float64)
    numbers = torch.empty(0, dtype=torch.int64)
    for start in range(0, count, chunk):
        these = torch.arange(start, min(start + chunk, count))
        found = values(_signs(these, places).to(like)).cpu().double()
        best = torch.cat([best, found.nan_to_num(-math.inf, -math.inf, -math.inf)])
        numbers = torch.cat([numbers, these])
        best, order = best.sort(descending=True, stable=True)
        best, numbers = best[:keep], numbers[order[:keep]]
        progress(min(start + chunk, count), count)
    corners = _signs(numbers, places).to(like)
    return [
        BoxMaximum(float(value), corner, count)
        for value, corner in zip(best, corners, strict=True)
        if math.isfinite(value)
    ]


def _signs(numbers: Tensor, places: Tensor) -> Tensor:
    """The corners with these numbers, one a row: coordinate i is +1 if bit i is set, else −1."""
    return 2 * (numbers[:, None] >> places & 1) - 1


def flip_ascent(
    values: Values, start: BoxMaximum, *, rounds: int = 20, chunk: int = 4096
) -> BoxMaximum:
    """Negate the coordinate or pair of coordinates that raises f most, until none does.

    A fixed point of the corner ascent is often not even the best among its neighbours.

    Cost: p + p(p − 1)/2 values a round; above 32 coordinates no pairs are tried and a round costs
    p.
    """
    dimensions = len(start.point)
    flips = 1 - 2 * torch.eye(dimensions).to(start.point)
    if dimensions <= _PAIRED:
        first, second = torch.triu_indices(dimensions, dimensions, 1)
        flips = torch.cat([flips, flips[first] * flips[second]])
    best = start
    for _ in range(rounds):
        points = best.point * flips
        found = torch.cat([values(part) for part in torch.split(points, chunk)])
        found = found.nan_to_num(-math.inf, -math.inf, -math.inf)
        spent = best.evaluations + len(points)
        index = int(found.argmax())
        if not float(found[index]) > best.value:
            return BoxMaximum(best.value, best.point, spent)
        best = BoxMaximum(float(found[index]), points[index], spent)
    return best


def projected_lbfgs(
    function: ValueAndGradient,
    value: float,
    gradient: Tensor,
    *,
    start: Tensor | None = None,
    iterations: int = 10,
    memory: int = 10,
    progress: Progress = silent,
) -> BoxMaximum:
    """Maximise f by limited-memory BFGS with bounds, on the device.

    The free variables (those not pushed against a bound by the gradient) move along the two-loop
    L-BFGS direction and are projected back onto the box. The line search widens a step while f
    gains and shortens it until f does. L-BFGS-B finds the free set by a generalized Cauchy point,
    which sorts all n breakpoints; here the gradient gives it (two-metric projection).

    Args:
        function: returns f and its gradient (p,) at a point (p,).
        value: f at the start.
        gradient: its gradient there (p,).
        start: where to start (default: the centre of the box).
        iterations: the most iterations.
        memory: pairs of steps and gradient changes that the inverse Hessian is built from.
        progress: called with the iterations done and the most there will be.

    Cost: one or two gradients and 4·memory vector operations an iteration.
    Source: Byrd, Lu, Nocedal & Zhu 1995 (L-BFGS-B); Bertsekas 1982; Kelley 1999, section 5.5.3.
    """
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=memory)
    point = torch.zeros_like(gradient) if start is None else start
    best, best_point, evaluations = value, point, 0
    # Without curvature the step length is unknown: let an average slope reach its bound.
    reach = 1.0
    for i in range(iterations):
        blocked = (point >= 1) & (gradient > 0) | (point <= -1) & (gradient < 0)
        free = torch.where(blocked, 0.0, gradient)
        average = float(free.abs().mean())
        if average == 0:
            break
        direction = _two_loop(free, pairs).masked_fill_(blocked, 0.0)
        slope = float(direction @ gradient)
        if not slope > 0:
            pairs.clear()
            direction, slope = free, float(free @ free)
        length = 1.0 if pairs else reach / average
        step = _line_search(function, point, value, gradient, direction, length)
        reach = step.length * average if step.gradient is not None else reach
        evaluations += step.evaluations
        progress(i + 1, iterations)
        if step.gradient is None:
            if not pairs:
                break
            pairs.clear()
            continue
        change, turn = step.point - point, gradient - step.gradient
        curvature = float(change @ turn)
        if curvature > torch.finfo(turn.dtype).eps * float(turn @ turn):
            pairs.append((change, turn, curvature))
        point, value, gradient = step.point, step.value, step.gradient
        if value > best:
            best, best_point = value, point
    return BoxMaximum(best, best_point, evaluations)


@dataclass(frozen=True)
class _Step:
    point: Tensor
    value: float
    gradient: Tensor | None
    length: float
    evaluations: int


def _line_search(
    function: ValueAndGradient,
    point: Tensor,
    value: float,
    gradient: Tensor,
    direction: Tensor,
    length: float,
) -> _Step:
    """The first step along the projected path that gains enough; no `gradient` if none does."""
    for evaluations in range(1, _LINE_EVALUATIONS + 1):
        trial = (point + length * direction).clamp_(-1, 1)
        found, slope = function(trial)
        if math.isfinite(found):
            expected = float(gradient @ (trial - point))
            if found >= value + _ARMIJO * expected and found > value:
                return _Step(trial, found, slope, length, evaluations)
        length /= _FACTOR
    return _Step(point, value, None, length, _LINE_EVALUATIONS)


def _two_loop(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
    """H·gradient with the L-BFGS inverse Hessian of the pairs (Nocedal 1980); ascent."""
    direction = gradient.clone()
    if not pairs:
        return direction
    weights = []
    for change, turn, curvature in reversed(pairs):
        weight = float(change @ direction) / curvature
        direction -= weight * turn
        weights.append(weight)
    _, turn, curvature = pairs[-1]
    direction *= curvature / float(turn @ turn)
    for (change, turn, curvature), weight in zip(pairs, reversed(weights), strict=True):
        direction += (weight - float(turn @ direction) / curvature) * change
    return direction
