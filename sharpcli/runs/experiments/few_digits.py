"""Handwritten digits with few training examples: near overfitting, or all of them in each step.

The first `examples` training images of the built-in task `digits` train; all its other images test.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sharpcli.tasks.builtin import digits


def model(
    kind: Literal["mlp", "cnn"] = "mlp",
    width: int = 32,
    depth: int = 2,
    activation: Literal["relu", "tanh", "gelu"] = "relu",
) -> nn.Module:
    """The network of `digits`."""
    return digits.model(kind, width=width, depth=depth, activation=activation)


def data(split: str, examples: int = 256) -> tuple[Tensor, Tensor]:
    """Images and classes of a split."""
    images, classes = digits.data("train")
    if split == "train":
        return images[:examples], classes[:examples]
    more, their_classes = digits.data("test")
    return torch.cat([images[examples:], more]), torch.cat([classes[examples:], their_classes])
