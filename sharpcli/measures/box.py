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
"""A function of u that returns its value and gradient, and both at u = 0."""


@dataclass(frozen=True)
class Box:
    """The points θ + A·(bound·u) with u ∈ [−1, 1]ᵖ, where bound is ε(|A⁺θ| + 1)."""

    theta: Tensor
    space: Space
    epsilon: float

    @cached_property
    def bound(self) -> Tensor:
        """Half the box's width along each of its axes (p,)."""
        return self.epsilon * (self.space.coordinates(self.theta).abs() + 1)

    def shift(self, point: Tensor) -> Tensor:
        """The displacement from θ of u = `point` (p,), or of several (k, p): (n,) or (k, n)."""
        return self.space.lift(self.bound * point)

    def unscaled(self, objective: Objective, at_theta: tuple[float, Tensor]) -> _Problem:
        """L in the box with its gradient in θ: corners need only signs and an order.

        No logarithm is needed, so the loss may be negative.
        """
        loss, gradient = at_theta

        def function(point: Tensor) -> tuple[float, Tensor]:
            value, full = objective.gradient(self.theta + self.shift(point))
            return value, self.space.pull(full)

        return function, (loss, self.space.pull(gradient))

    def scaled(self, objective: Objective, at_theta: tuple[float, Tensor]) -> _Problem:
        """Log L if L(θ) is positive, else L, with its gradient in u.

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
    """The maximum with the loss instead of its logarithm; the exact loss if the centre is best."""
    if not bool(found.point.any()):
        return BoxMaximum(loss, found.point, found.evaluations)
    value = math.exp(found.value) if loss > 0 else found.value
    return BoxMaximum(value, found.point, found.evaluations)
