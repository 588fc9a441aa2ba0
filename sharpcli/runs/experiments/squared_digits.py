"""A task: the built-in digits with a tanh MLP and a squared loss.

In a sweep file: task = "sharpcli.runs.experiments.squared_digits:".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpcli.runs.experiments.squared_cifar10 import loss, metrics
from sharpcli.tasks.builtin import digits
from sharpcli.tasks.builtin.digits import data

if TYPE_CHECKING:
    from torch import nn

__all__ = ["data", "loss", "metrics", "model"]


def model(width: int = 64, depth: int = 4) -> nn.Module:
    """An MLP with tanh, whose loss has second derivatives everywhere."""
    return digits.model(width=width, depth=depth, activation="tanh")
