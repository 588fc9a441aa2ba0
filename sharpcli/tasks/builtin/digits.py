"""The built-in task `digits`: real handwritten digits that come with scikit-learn.

1,797 images of 8x8 grey levels (0 to 16, scaled to [0, 1]) in ten classes. Every fifth image of
each class, in the data set's order, is in the test split: always the same 1,442 train, 355 test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpcli.errors import SharpError
from sharpcli.tasks.images import Activation, Kind, augment, classifier, part

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PACKAGE", "SUMMARY", "augment", "data", "model"]

SUMMARY = "8x8 images of handwritten digits: 1,797 of ten classes, with an MLP, a CNN or a ResNet"
PACKAGE = "scikit-learn"

SIDE = 8


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
    return classifier("digits", SIDE, model, batch_norm, width, depth, activation)


def data(split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) in float32 and classes (N,) in int64 of one split."""
    import torch

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SharpError(
            "digits: its images come with scikit-learn, which is not installed",
            "pip install 'sharpcli[demo]'",
        ) from error
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32).reshape(-1, 1, SIDE, SIDE) / 16
    return part(images, torch.tensor(digits.target, dtype=torch.int64), split)
