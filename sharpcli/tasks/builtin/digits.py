"""The built-in task `digits`: real handwritten digits that come with scikit-learn.

1,797 images of 8x8 grey levels (0 to 16, scaled to [0, 1]) in ten classes. Every fifth image of
each class, in the data set's order, is in the test split: always the same 1,442 train, 355 test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sharpcli.errors import SharpError, setting

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PACKAGE", "SUMMARY", "data", "model"]

SUMMARY = "8x8 images of handwritten digits: 1,797 of ten classes, with an MLP or a CNN"
PACKAGE = "scikit-learn"

CLASSES = 10
SIDE = 8
TEST_EVERY = 5
MOST = 10**9  # limit on width and depth, beyond any machine's memory


def model(
    model: Literal["mlp", "cnn"] = "mlp",
    batch_norm: bool = False,
    width: int = 64,
    depth: int = 2,
    activation: Literal["relu", "tanh", "gelu"] = "relu",
) -> nn.Module:
    """An MLP of `depth` hidden layers of `width` units, or a CNN of `depth` 3x3 convolutions."""
    from sharpcli.tasks.networks import check_room, cnn, mlp

    if not (1 <= width <= MOST and 1 <= depth <= MOST):
        raise SharpError(
            f"digits: width {width} and depth {depth} must be between 1 and {MOST:,}",
            f"{setting('options.width', 64)} {setting('options.depth', 2)}",
        )
    check_room("digits", SIDE * SIDE, width, depth, 9 if model == "cnn" else 1)
    networks = {
        "mlp": lambda: mlp(SIDE * SIDE, CLASSES, width, depth, activation, batch_norm),
        "cnn": lambda: cnn(1, SIDE, CLASSES, width, depth, activation, batch_norm),
    }
    return networks[model]()


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
    classes = torch.tensor(digits.target, dtype=torch.int64)
    one_hot = torch.nn.functional.one_hot(classes, CLASSES)
    place_in_class = (one_hot.cumsum(0) * one_hot).sum(1) - 1
    test = place_in_class % TEST_EVERY == TEST_EVERY - 1
    chosen = {"train": ~test, "test": test}[split]
    return images[chosen], classes[chosen]
