"""CIFAR-10 by torchvision, from the folder `folder`, which its downloads made before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.tasks.networks import resnet


def model(width: int = 64, depth: int = 3) -> nn.Module:
    """A ResNet of 6·depth + 2 layers."""
    return resnet(3, 10, width, depth, "relu", True)


def data(split: str, folder: str = "data", examples: int = 50_000) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and classes of a split, of the training images the first `examples`."""
    try:
        from torchvision.datasets import CIFAR10
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        raise SharpError(
            f"cifar10: torchvision, which reads the images, cannot be imported: {error}",
            "install the torchvision of the torch that is installed",
        ) from error
    try:
        found = CIFAR10(folder, train=split == "train")
    except RuntimeError as error:
        raise SharpError(
            f"cifar10: {folder} does not hold CIFAR-10",
            "name the folder that torchvision's download made: options.folder",
        ) from error
    images = torch.tensor(found.data).permute(0, 3, 1, 2).float() / 255
    count = examples if split == "train" else len(images)
    return images[:count], torch.tensor(found.targets)[:count]
