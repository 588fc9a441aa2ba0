"""Losses that are not finite, on the CPU and on a device that is read some steps later."""

import math

import pytest
import torch

from sharpcli.training.losses import BEHIND, Losses


class NotFiniteError(Exception):
    pass


def losses():
    return Losses(lambda loss, step: NotFiniteError(f"{loss} at {step}"))


class Elsewhere:
    """The loss of a device that no step waits for."""

    device = torch.device("meta")

    def __init__(self, value):
        self.value = value

    def detach(self):
        return torch.tensor(self.value)


def test_on_the_cpu_at_once():
    with pytest.raises(NotFiniteError, match="nan at 3"):
        losses().add(3, torch.tensor(math.nan))


def test_elsewhere_the_first_of_those_that_are_read_together():
    found = losses()
    for step in range(1, BEHIND):
        found.add(step, Elsewhere(math.inf if step >= 5 else 1.0))
    with pytest.raises(NotFiniteError, match="inf at 5"):
        found.add(BEHIND, Elsewhere(math.nan))


def test_elsewhere_before_anything_is_kept():
    found = losses()
    found.add(1, Elsewhere(1.0))
    found.read()
    found.add(2, Elsewhere(math.nan))
    with pytest.raises(NotFiniteError, match="nan at 2"):
        found.read()
    found.read()
