"""A task for experiments in minutes: MNIST at 14x14 pixels, 1,000 images to train, 4,000 to test.

The images are those of the built-in task `mnist`, averaged over squares of 2x2 pixels. Few images
to train make runs short and the gap wide; many to test make its measurement precise. Every fifth
image of each class is trained on, always the same ones. In a sweep file:
task = "sharpcli.runs.experiments.small_mnist:".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpcli.tasks.builtin import mnist
from sharpcli.tasks.images import Activation, Kind, augment, classifier

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["augment", "data", "model"]

SIDE = 14


def model(
    model: Kind = "mlp",
    batch_norm: bool = False,
    width: int = 64,
    depth: int = 2,
    activation: Activation = "relu",
) -> nn.Module:
    """An MLP of `depth` hidden layers of `width` units, a CNN of `depth` convolutions, a ResNet."""
    return classifier("small_mnist", SIDE, model, batch_norm, width, depth, activation)


def data(split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 14, 14) in float32 and classes (N,) of one split."""
    import torch

    images, classes = mnist.data({"train": "test", "test": "train"}[split])
    return torch.nn.functional.avg_pool2d(images, 2), classes
