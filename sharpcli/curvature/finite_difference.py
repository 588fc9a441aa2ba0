"""Hessian products from gradients alone, for models without second derivatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sharpcli.curvature.differences import hessian_by_differences
from sharpcli.objective.checks import check_finite
from sharpcli.objective.objective import Objective
from sharpcli.objective.rows import Rows

__all__ = ["FiniteDifference", "in_float64"]

# Steps to try, in units of 1 + ‖θ‖: the first, the ratio to the next, and how many. In float64 all
# are short, because rounding allows it: a ResNet-20 crosses kinks of its ReLUs down to 1e-7, and
# each adds to the difference. In float32 the first is the cube root of the machine epsilon, which
# balances truncation against rounding for a smooth loss; kinks need shorter steps.
_STEPS = {torch.float64: (1.5e-8, 16.0, 4), torch.float32: (4.9e-3, 4.0, 7)}
# Examples on which float64 is tried: a loss of pairs is undefined for a single example.
_TRIED = 2


class FiniteDifference:
    """Hv ≈ (∇L(θ + hv) − ∇L(θ − hv)) / 2h, in float64 wherever the model supports it.

    A float32 step long enough for rounding crosses kinks of ReLU, each worth up to percents of the
    largest eigenvalue. `step_change` is how much a product with a unit vector changed with the
    step; `error` is the larger of this and the asymmetry of products. Both are 0 before the first
    product.

    Cost: two gradients a product, and two for each step tried (4 in float64, 7 in float32) and for
    the symmetry.
    """

    def __init__(self, objective: Objective, theta: Tensor) -> None:
        self.objective = objective
        self.size = objective.size
        self.dtype, self.device = theta.dtype, theta.device
        self.products = 0
        self.error = self.step_change = 0.0
        self._theta = theta
        self._inner: Objective | None = None
        self._step = 0.0
        self._slope: Tensor | None = None  # set if embeddings have padding rows

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Hv for v (n,), or HV for V (n, k); refuses a loss or gradient that is not finite."""
        if self._inner is None:
            self._inner, self._theta = in_float64(self.objective, self._theta)
            self._choose_step()
        columns = vectors.reshape(self.size, -1).T.to(self._theta)
        if self._slope is not None:
            columns = columns.clone()
            for column in columns:
                self.objective.network.trained(column, self._slope)
        self.products += len(columns)
        out = torch.stack([self._difference(column, self._step) for column in columns])
        return out.T.reshape(vectors.shape).to(self.dtype)

    def release(self) -> None:
        """Do nothing: nothing is kept."""

    def _choose_step(self) -> None:
        """Choose the step at which a difference changed least.

        Two directions are tried: the gradient, where the curvature is large, and a random vector,
        which meets kinks that the gradient misses.
        """
        inner, theta = self._inner, self._theta
        assert inner is not None
        value, gradient = inner.gradient(theta)
        check_finite(inner, value, theta, gradient)
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(self.size, generator=generator).to(theta)
        direction = random / random.norm() + gradient / gradient.norm().clamp_min(
            torch.finfo(theta.dtype).tiny
        )
        if inner.network.pads:
            self._slope = gradient
            direction = inner.network.trained(direction, gradient)
        direction /= direction.norm()
        share, shrink, count = _STEPS.get(inner.network.compute, _STEPS[torch.float32])
        step = self._step = share * (1 + float(theta.norm()))
        before = product = self._difference(direction, step)
        self.step_change = math.inf
        for _ in range(count - 1):
            step /= shrink
            now = self._difference(direction, step)
            change = float((now - before).norm())
            if change < self.step_change:
                self._step, self.step_change, product = step, change, now
            before = now
        self.error = max(self.step_change, self._asymmetry(direction, product))

    def _asymmetry(self, direction: Tensor, product: Tensor) -> float:
        """|uᵀHv − vᵀHu| for unit v, where `product` is Hv and u its direction."""
        scale = float(product.norm())
        if scale == 0.0:
            return 0.0
        return abs(scale - float(direction @ self._difference(product / scale, self._step)))

    def _difference(self, vector: Tensor, step: float) -> Tensor:
        inner, theta = self._inner, self._theta
        assert inner is not None
        length = float(vector.norm())
        if length == 0.0:
            return torch.zeros_like(vector)
        h = step / length
        found = hessian_by_differences(inner, theta, vector, h)
        if not bool(torch.isfinite(found).all()):
            for point in (theta + h * vector, theta - h * vector):
                value, gradient = inner.gradient(point)
                check_finite(inner, value, point, gradient)
        return found


def in_float64(
    objective: Objective, theta: Tensor, rows: Rows | None = None
) -> tuple[Objective, Tensor]:
    """The objective, on its own or other rows, and θ in float64.

    In their own dtype if the device or the model does not support float64.
    """
    network = objective.network
    if rows is not None:
        objective = Objective(network, rows, objective.fixed, memory=objective.memory)
    if network.compute == torch.float64:
        return objective, theta
    half = max(1, objective.batch_size // 2)  # a fixed batch keeps its size
    double = objective.try_in(torch.float64, theta, _differentiated, batch_size=half)
    return double or (objective, theta)


def _differentiated(objective: Objective, theta: Tensor) -> tuple[Objective, Tensor]:
    leaves, first = objective.leaves(theta), objective.rows.head(_TRIED)
    total, _ = objective.sum_and_weight(leaves, first.batch, first.count)
    torch.autograd.grad(total, leaves, allow_unused=True)
    return objective, theta
