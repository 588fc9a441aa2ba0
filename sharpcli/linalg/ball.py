"""Maxima of a function over a unit ball, bounded from below by the best point evaluated.

The ball is {u : ‖u‖₂ ≤ 1} or the box {u : ‖u‖_∞ ≤ 1}. No method leaves it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sharpcli.linalg.box import BoxMaximum, ValueAndGradient
from sharpcli.linalg.orthogonal import dots
from sharpcli.runtime.progress import Progress, silent

__all__ = ["Ball", "Norm", "auto_pgd", "tangent_ascent"]

Norm = Literal["l2", "linf"]

# Auto-PGD's own constants (Croce & Hein 2020, section 3): the first step is the ball's diameter;
# the weight of a new step against momentum; the share of steps between two checkpoints that must
# gain; the checkpoints' first distance, by how much it shrinks, and its least, as shares of all
# iterations.
_FIRST_STEP, _NEW, _GAINING = 2.0, 0.75, 0.75
_FIRST_CHECK, _SHRINK, _LEAST = 0.22, 0.03, 0.06
# An ascent ends when a step gains less than this share of all it has gained.
_SETTLED = 1e-9


@dataclass(frozen=True)
class Ball:
    """The points u with ‖u‖ ≤ 1 in the 2-norm or the largest-entry norm."""

    norm: Norm

    def farthest(self, gradient: Tensor) -> Tensor:
        """The point of the ball with the largest ⟨gradient, u⟩; zeros for a zero gradient."""
        if self.norm == "linf":
            return gradient.sign()
        # Dividing by the largest entry first keeps squares of tiny or huge entries finite.
        largest = float(gradient.abs().max()) if len(gradient) else 0.0
        if not 0 < largest < math.inf:
            return torch.zeros_like(gradient)
        scaled = gradient / largest
        return scaled / _norm(scaled)

    def project(self, point: Tensor) -> Tensor:
        """The nearest point of the ball."""
        if self.norm == "linf":
            return point.clamp(-1, 1)
        return point / max(_norm(point), 1.0)


def auto_pgd(
    function: ValueAndGradient,
    value: float,
    gradient: Tensor,
    ball: Ball,
    *,
    start: Tensor | None = None,
    iterations: int = 20,
    progress: Progress = silent,
) -> BoxMaximum:
    """Maximise f over a ball by projected gradient steps with momentum and a step that halves.

    A step goes along the gradient's sign (`linf`) or unit vector (`l2`). At checkpoints, which get
    closer, the step is halved if fewer than 75 % of the steps gained since the last one, or if
    neither the step nor the best value changed; the search then goes on from the best point.

    Args:
        function: returns f and its gradient (p,) at a point (p,).
        value: f at the start.
        gradient: its gradient there (p,).
        ball: where to search.
        start: where to start, in the ball (default: its centre).
        iterations: the number of steps.
        progress: called with the steps done and their number.

    Cost: one gradient an iteration.
    Source: Croce & Hein 2020, algorithm 1 (Auto-PGD).

    >>> import torch
    >>> def f(u):  # a slope, whose maximum over the disc is 5 at (0.6, 0.8)
    ...     return float(3 * u[0] + 4 * u[1]), torch.tensor([3.0, 4.0])
    >>> value, gradient = f(torch.zeros(2))
    >>> best = auto_pgd(f, value, gradient, Ball("l2"))
    >>> round(best.value, 4), [round(x, 4) for x in best.point.tolist()]
    (5.0, [0.6, 0.8])
    """
    point = torch.zeros_like(gradient) if start is None else start
    best, best_point, best_gradient = value, point, gradient
    step, before = _FIRST_STEP, point
    checks = _checkpoints(iterations)
    last_check, gains, last_step, last_best = 0, 0, step, best
    here, previous = value, value
    for i in range(iterations):
        moved = ball.project(point + step * ball.farthest(gradient))
        if i > 0:
            moved = ball.project(point + _NEW * (moved - point) + (1 - _NEW) * (point - before))
        before, point, previous = point, moved, here
        here, gradient = function(point)
        sound = math.isfinite(here) and bool(torch.isfinite(gradient).all())
        gains += sound and here > previous
        if sound and here > best:
            best, best_point, best_gradient = here, point, gradient
        progress(i + 1, iterations)
        if i + 1 in checks or not sound:
            few = gains < _GAINING * (i + 1 - last_check)
            stuck = step == last_step and best == last_best
            last_step, last_best, last_check, gains = step, best, i + 1, 0
            if few or stuck or not sound:
                step /= 2
                point, before, gradient, here = best_point, best_point, best_gradient, best
    return BoxMaximum(best, best_point, iterations)


def tangent_ascent(
    function: ValueAndGradient,
    value: float,
    gradient: Tensor,
    ball: Ball,
    *,
    start: Tensor | None = None,
    iterations: int = 20,
) -> BoxMaximum:
    """Maximise f by repeated steps to the point of the ball where its linear model is largest.

    For convex f no step loses, because the tangent plane lies below f; for a quadratic form over
    the 2-norm ball these are power iterations. It ends where a step no longer gains.

    Args:
        function: returns f and its gradient (p,) at a point (p,).
        value: f at the start.
        gradient: its gradient there (p,).
        ball: where to search.
        start: where to start, in the ball (default: its centre).
        iterations: the most steps.

    Cost: one gradient a step.
    Source: Frank & Wolfe 1956 with full steps (Journée et al. 2010 for convex maximisation).
    """
    best, point = value, torch.zeros_like(gradient) if start is None else start
    evaluations = 0
    for _ in range(iterations):
        there = ball.farthest(gradient)
        if not bool(there.any()) or torch.equal(there, point):
            break
        found, slope = function(there)
        evaluations += 1
        if not (math.isfinite(found) and found > best):
            break
        gained, best, point, gradient = found - best, found, there, slope
        if gained <= _SETTLED * (best - value):
            break
    return BoxMaximum(best, point, evaluations)


def _checkpoints(iterations: int) -> set[int]:
    """The iterations after which Auto-PGD considers to halve its step."""
    shares = [0.0, _FIRST_CHECK]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - _SHRINK, _LEAST))
    return {math.ceil(share * iterations) for share in shares[1:]}


def _norm(vector: Tensor) -> float:
    return math.sqrt(float(dots(vector[None], vector[None])))
