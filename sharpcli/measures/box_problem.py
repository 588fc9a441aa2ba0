"""The loss in a box around θ as a function of its coordinates, for maximisers."""

from __future__ import annotations

import math

from torch import Tensor

from sharpcli.linalg.box import BoxMaximum, ValueAndGradient
from sharpcli.measures.context import Context
from sharpcli.measures.subspace import Space
from sharpcli.objective.objective import Objective

__all__ = ["scaled", "unscaled", "with_loss"]


def unscaled(
    context: Context,
    objective: Objective,
    at_theta: tuple[float, Tensor],
    space: Space,
    bound: Tensor,
) -> tuple[ValueAndGradient, tuple[float, Tensor]]:
    """As `scaled`, with L itself as the objective: corners need no more than signs and an order.

    A loss that is negative at θ or elsewhere in the box has no logarithm.
    """
    loss, gradient = at_theta

    def function(point: Tensor) -> tuple[float, Tensor]:
        value, full = objective.gradient(context.theta + space.lift(bound * point))
        return value, space.pull(full)

    return function, (loss, space.pull(gradient))


def scaled(
    context: Context,
    objective: Objective,
    at_theta: tuple[float, Tensor],
    space: Space,
    bound: Tensor,
) -> tuple[ValueAndGradient, tuple[float, Tensor]]:
    """The problem over u ∈ [−1, 1]ᵖ with z = bound·u: value and gradient at any u, and at 0.

    The objective is log L where L(θ) is positive: it rises evenly where L rises by powers of ten.
    """
    logarithm = at_theta[0] > 0

    def transform(value: float, pulled: Tensor) -> tuple[float, Tensor]:
        if not logarithm:
            return value, bound * pulled
        if not value > 0:
            return -math.inf, pulled
        return math.log(value), bound * pulled / value

    plain, start = unscaled(context, objective, at_theta, space, bound)
    return lambda point: transform(*plain(point)), transform(*start)


def with_loss(found: BoxMaximum, loss: float) -> BoxMaximum:
    """The maximum with the loss in place of its logarithm; the centre's own where that is best."""
    if not bool(found.point.any()):
        return BoxMaximum(loss, found.point, found.evaluations)
    value = math.exp(found.value) if loss > 0 else found.value
    return BoxMaximum(value, found.point, found.evaluations)
