"""Maxima of a smooth function over the box [−1, 1]ᵖ, bounded from below by the best point found.

Both methods only ever evaluate value and gradient, keep the best point, and never leave the box.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..progress import Progress, silent

__all__ = ["BoxMaximum", "ValueAndGradient", "corner_ascent", "projected_lbfgs"]

ValueAndGradient = Callable[[Tensor], tuple[float, Tensor]]

# Evaluations that one line search may take, and the factor by which it widens a step that still
# gains. An ascent towards corners wants long steps; four is what Moré & Thuente (1994) use.
_LINE_EVALUATIONS = 5
_WIDEN = 4.0
# Sufficient increase (Armijo), the usual constant of Nocedal & Wright (2006).
_ARMIJO = 1e-4


@dataclass(frozen=True)
class BoxMaximum:
    """The best point found in the box, its value, and how many evaluations that took."""

    value: float
    point: Tensor
    evaluations: int


def corner_ascent(
    function: ValueAndGradient,
    value: float,
    gradient: Tensor,
    *,
    iterations: int = 10,
    progress: Progress = silent,
) -> BoxMaximum:
    """Go to the corner u = sign(∇f(u)) that the linear model favours, again and again.

    Starts at the centre, whose `value` and `gradient` are given. For convex f each step gains or
    stays (it maximises the tangent plane, which lies below f); otherwise the best corner counts.
    Stops where the corner repeats. Cost: one gradient an iteration.
    """
    best = BoxMaximum(value, torch.zeros_like(gradient), 0)
    point = best.point
    for i in range(iterations):
        corner = torch.where(gradient == 0, point, gradient.sign())
        if torch.equal(corner, point):
            break
        point = corner
        found, gradient = function(point)
        progress(i + 1, iterations)
        best = BoxMaximum(*max((best.value, best.point), (found, point), key=_first), i + 1)
        if not math.isfinite(found) or (found < best.value and i > 0):
            break
    return best


def projected_lbfgs(
    function: ValueAndGradient,
    value: float,
    gradient: Tensor,
    *,
    iterations: int = 10,
    memory: int = 10,
    progress: Progress = silent,
) -> BoxMaximum:
    """Limited-memory BFGS with bounds, on the device, from the centre of the box.

    The free variables (not at a bound that the gradient pushes against) move along the two-loop
    L-BFGS direction and are projected back onto the box; the line search widens a step while it
    gains and shortens it until it does. It differs from L-BFGS-B (Byrd, Lu, Nocedal & Zhu 1995)
    in taking the free set from the gradient in place of a generalized Cauchy point, which needs a
    sort of all n breakpoints (two-metric projection, Bertsekas 1982; Kelley 1999, section 5.5.3).
    Cost: one or two gradients an iteration and 4·memory vector operations.
    """
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=memory)
    point = torch.zeros_like(gradient)
    best, best_point, evaluations = value, point, 0
    for i in range(iterations):
        blocked = (point >= 1) & (gradient > 0) | (point <= -1) & (gradient < 0)
        free = torch.where(blocked, 0.0, gradient)
        steepest = float(free.abs().max())
        if steepest == 0:
            break
        direction = _two_loop(free, pairs).masked_fill_(blocked, 0.0)
        slope = float(direction @ gradient)
        if not slope > 0:
            pairs.clear()
            direction, slope = free, float(free @ free)
        # Without curvature the step's length is unknown: reach the first bound, then widen.
        length = 1.0 if pairs else 1.0 / steepest
        step = _line_search(function, point, value, gradient, direction, length)
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
    evaluations: int


def _line_search(
    function: ValueAndGradient,
    point: Tensor,
    value: float,
    gradient: Tensor,
    direction: Tensor,
    length: float,
) -> _Step:
    """The best of a few steps along the projected path; no gradient where none gained."""
    best = _Step(point, value, None, 0)
    shorten = False
    for evaluations in range(1, _LINE_EVALUATIONS + 1):
        trial = (point + length * direction).clamp_(-1, 1)
        found, slope = function(trial)
        gained = math.isfinite(found) and found >= value + _ARMIJO * float(
            gradient @ (trial - point)
        )
        best = _Step(best.point, best.value, best.gradient, evaluations)
        if gained and found > best.value:
            best = _Step(trial, found, slope, evaluations)
            rising = float(slope @ (trial - point)) > 0.5 * (found - value)
            corner = bool((trial.abs() == 1).logical_or(direction == 0).all())
            if shorten or corner or not rising:
                return best
            length *= _WIDEN
        elif best.gradient is not None:
            return best
        else:
            shorten = True
            length /= _WIDEN
    return best


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


def _first(pair: tuple[float, Tensor]) -> float:
    return pair[0] if math.isfinite(pair[0]) else -math.inf
