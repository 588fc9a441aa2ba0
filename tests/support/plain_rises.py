"""Losses around θ in plain float64 PyTorch, without the package's loops, and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from networks import real_targets, squared_error, task
from torch import Tensor, nn

from sharpcli.measures import choose, options_of
from sharpcli.tasks import Task


def options(name: str, **given: Any) -> dict[str, Any]:
    """A measure's own options: as given, else their defaults."""
    return options_of(choose((name,)), given)


class Plain:
    """A task's train loss, gradient and accuracy at θ + δ for a flat δ (n,)."""

    def __init__(self, of: Task) -> None:
        self._of, self._model = of, of.model().double().eval()
        self._batch = tuple(
            each.double() if each.is_floating_point() else each for each in of.data("train")
        )
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self.theta = torch.cat([p.detach().reshape(-1) for p in self._parameters])

    def _moved(self, shift: Tensor) -> None:
        nn.utils.vector_to_parameters(self.theta + shift, self._parameters)

    def _mean(self, value: Any) -> Tensor:
        total, weight = value if isinstance(value, tuple) else (value, torch.ones_like(value))
        return total.sum() / weight.sum()

    def loss(self, shift: Tensor) -> float:
        self._moved(shift)
        with torch.no_grad():
            outputs = self._of.predict(self._model, self._batch)
            return float(self._mean(self._of.loss(outputs, self._batch)))

    def rise(self, shift: Tensor) -> float:
        return self.loss(shift) - self.loss(torch.zeros_like(shift))

    def gradient(self, shift: Tensor) -> Tensor:
        self._moved(shift)
        mean = self._mean(self._of.loss(self._of.predict(self._model, self._batch), self._batch))
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(mean, self._parameters)])

    def accuracy(self, shift: Tensor) -> float:
        self._moved(shift)
        with torch.no_grad():
            outputs = self._of.predict(self._model, self._batch)
            return float((outputs.argmax(-1) == self._batch[1]).double().mean())

    def mean_rise(self, draw: Callable[[], Tensor], count: int) -> tuple[float, float]:
        """The mean rise over displacements of mean zero, without gᵀδ, and its standard error."""
        slope = self.gradient(torch.zeros_like(self.theta))
        shifts = [draw() for _ in range(count)]
        rises = torch.tensor(
            [self.rise(shift) - float(slope @ shift) for shift in shifts], dtype=torch.float64
        )
        return float(rises.mean()), float(rises.std()) / count**0.5


def least_squares(inputs: int = 4, outputs: int = 1, *, at_minimum: bool = False) -> Task:
    """L(w) = mean ‖Wx − y‖²: a quadratic; at its minimum the targets are the outputs."""

    def model() -> nn.Module:
        return nn.Linear(inputs, outputs, bias=False)

    def exact(outputs: Tensor, batch: Any) -> Tensor:
        weights = torch.full((1, inputs), 0.5, dtype=batch[0].dtype)
        return (outputs - batch[0] @ weights.T).square().sum(1)

    def halves() -> nn.Module:
        linear = nn.Linear(inputs, 1, bias=False)
        nn.init.constant_(linear.weight, 0.5)
        return linear

    if at_minimum:
        return task(halves, real_targets(inputs, 1), loss=exact, metrics=None)
    return task(model, real_targets(inputs, outputs), loss=squared_error, metrics=None)


def quadratic(of: Task) -> tuple[Tensor, Tensor, Tensor]:
    """θ, gradient and Hessian of `least_squares` with one output, in closed form."""
    inputs, targets = (each.double() for each in of.data("train"))
    theta = Plain(of).theta
    matrix = 2 * inputs.T @ inputs / len(inputs)
    gradient = 2 * inputs.T @ (inputs @ theta - targets[:, 0]) / len(inputs)
    return theta, gradient, matrix


def largest_in_ball(gradient: Tensor, matrix: Tensor) -> float:
    """max gᵀu + ½uᵀHu over ‖u‖₂ ≤ 1 for H ⪰ 0: u = (μ − H)⁻¹g on the sphere, by bisection of μ."""
    values, vectors = torch.linalg.eigh(matrix)
    along = vectors.T @ gradient
    low = float(values[-1])
    high = low + float(gradient.norm()) + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if float((along / (middle - values)).norm()) > 1:
            low = middle
        else:
            high = middle
    u = along / (high - values)
    return float(along @ u + values @ u.square() / 2)
