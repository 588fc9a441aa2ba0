"""Adam with ε inside the root: its average, and the orders of the paths without memory."""

from __future__ import annotations

import math

import pytest
import torch

from sharpcli.training.smooth_adam import SmoothAdam


def loss(weight: torch.Tensor) -> torch.Tensor:
    """Smooth, convex, with coupled weights."""
    return torch.cosh(weight).sum() + 0.5 * (weight.sum() - 1) ** 2


def path(memory: str, lr: float, steps: int, betas: tuple[float, float]) -> torch.Tensor:
    weight = torch.tensor([2.0, -1.5, 0.7], dtype=torch.float64, requires_grad=True)
    optimizer = SmoothAdam([weight], lr=lr, betas=betas, eps=0.5, memory=memory)

    def closure() -> None:
        weight.grad = None
        loss(weight).backward()

    for _ in range(steps):
        closure()
        optimizer.step(closure)
    return weight.detach()


def test_a_step_is_adams_with_the_constant_inside_the_root() -> None:
    found, first, second = path("full", 0.1, 3, (0.6, 0.9)), 0.6, 0.9
    weight = torch.tensor([2.0, -1.5, 0.7], dtype=torch.float64, requires_grad=True)
    mean = square = torch.zeros(3, dtype=torch.float64)
    for taken in (1, 2, 3):
        (gradient,) = torch.autograd.grad(loss(weight), weight)
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient**2
        root = (square / (1 - second**taken) + 0.5) ** 0.5
        weight = (weight - 0.1 * mean / (1 - first**taken) / root).detach().requires_grad_()
    torch.testing.assert_close(found, weight.detach(), rtol=1e-12, atol=0)


def test_without_memory_the_present_gradient_stands_for_the_averages() -> None:
    plain = path("none", 0.1, 5, (0.9, 0.99))
    torch.testing.assert_close(path("full", 0.1, 5, (0.0, 0.0)), plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(path("corrected", 0.1, 5, (0.0, 0.0)), plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("betas", [(0.9, 0.8), (0.5, 0.95), (0.8, 0.8)])
def test_the_correction_is_exact_to_first_order(betas: tuple[float, float]) -> None:
    def off(memory: str, lr: float) -> float:
        steps = round(1 / lr)
        return float((path(memory, lr, steps, betas) - path("full", lr, steps, betas)).norm())

    for memory, order in (("none", 1), ("corrected", 2)):
        found = math.log2(off(memory, 1 / 400) / off(memory, 1 / 800))
        assert found == pytest.approx(order, abs=0.15)
    assert off("corrected", 1 / 800) < 0.2 * off("none", 1 / 800)


@pytest.mark.parametrize("wrong", [{"memory": "some"}, {"eps": 0.0}, {"betas": (0.9, 1.0)}])
def test_refuses_values_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"memory is|eps is above"):
        SmoothAdam([torch.zeros(1, requires_grad=True)], **wrong)  # type: ignore[arg-type]
