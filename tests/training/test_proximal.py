"""Proximal steps on a quadratic, whose every step can be written down."""

import pytest
import torch

from sharpcli.errors import UsageError
from sharpcli.training.build import take_step
from sharpcli.training.proximal import Proximal
from sharpcli.training.train_settings import TrainSettings

CURVATURE, RATE, PENALTY = torch.tensor([2.0, 0.5], dtype=torch.float64), 0.1, 3.0


def stepped(steps=2, **options):
    """The weights after steps on L = Σ c w²/2 from (1, −2)."""
    options = {"base_optimizer": "sgd", "penalty": PENALTY, **options}
    settings = TrainSettings("Proximal", lr=RATE, optimizer_options=options)
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = settings.kind.build([weight], settings)
    assert isinstance(optimizer, Proximal)

    def gradient():
        weight.grad = None
        loss = (CURVATURE * weight.square()).sum() / 2
        loss.backward()
        return loss

    for _ in range(steps):
        take_step(optimizer, gradient, gradient())
    return weight.detach()


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_steps_on_a_batch_are_held_near_their_start(iterations):
    found = torch.tensor([1.0, -2.0], dtype=torch.float64)
    for _ in range(2):
        start = found
        for _ in range(iterations):
            found = found - RATE * (CURVATURE * found + PENALTY * (found - start))
    torch.testing.assert_close(stepped(iterations=iterations), found, rtol=1e-14, atol=0)


def test_many_steps_arrive_at_the_proximal_point():
    """The minimum of c w²/2 + λ (w − w₀)²/2 is λ w₀ / (c + λ)."""
    point = PENALTY * torch.tensor([1.0, -2.0], dtype=torch.float64) / (CURVATURE + PENALTY)
    torch.testing.assert_close(stepped(steps=1, iterations=200), point)


@pytest.mark.parametrize("options", [{"penalty": -1.0}, {"iterations": 0}])
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="penalty is at least 0 and iterations at least 1"):
        stepped(**options)
