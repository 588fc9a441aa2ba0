"""A box around θ, and the loss in it as a function of its coordinates, for maximisers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from sharpcli.linalg.box import BoxMaximum, ValueAndGradient
from sharpcli.measures.subspace import Space
from sharpcli.objective.objective import Objective

__all__ = ["Box", "with_loss"]

_Problem = tuple[ValueAndGradient, tuple[float, Tensor]]
"""Value and gradient at any u, and at 0."""


@dataclass(frozen=True)
class Box:
    """The points θ + A·(bound·u) with u ∈ [−1, 1]ᵖ, where bound is ε(|A⁺θ| + 1)."""

    theta: Tensor
    space: Space
    epsilon: float

    @cached_property
    def bound(self) -> Tensor:
        """Half of the box's width along each of its axes (p,)."""
        return self.epsilon * (self.space.coordinates(self.theta).abs() + 1)

    def shift(self, point: Tensor) -> Tensor:
        """How far u = `point` (p,), or each of several (k, p), is from θ: (n,) or (k, n)."""
        return self.space.lift(self.bound * point)

    def unscaled(self, objective: Objective, at_theta: tuple[float, Tensor]) -> _Problem:
        """L of the box, with its gradient in θ: corners need no more than signs and an order.

        A loss that is negative at θ or elsewhere in the box has no logarithm.
        """
        loss, gradient = at_theta

        def function(point: Tensor) -> tuple[float, Tensor]:
            value, full = objective.gradient(self.theta + self.shift(point))
            return value, self.space.pull(full)

        return function, (loss, self.space.pull(gradient))

    def scaled(self, objective: Objective, at_theta: tuple[float, Tensor]) -> _Problem:
        """Log L where L(θ) is positive, else L, with its gradient in u.

        The logarithm rises evenly where L rises by powers of ten.
        """
        bound, logarithm = self.bound, at_theta[0] > 0

        def transform(value: float, pulled: Tensor) -> tuple[float, Tensor]:
            if not logarithm:
                return value, bound * pulled
            if not value > 0:
                return -math.inf, pulled
            return math.log(value), bound * pulled / value

        plain, start = self.unscaled(objective, at_theta)
        return lambda point: transform(*plain(point)), transform(*start)


def with_loss(found: BoxMaximum, loss: float) -> BoxMaximum:
    """The maximum with the loss in place of its logarithm; the centre's own where that is best."""
    if not bool(found.point.any()):
        return BoxMaximum(loss, found.point, found.evaluations)
    value = math.exp(found.value) if loss > 0 else found.value
    return BoxMaximum(value, found.point, found.evaluations)
