"""What the built-in tasks with images share: their networks, and the split by class.

Imports torch in its functions only, as those tasks do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sharpcli.errors import SharpError, setting

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

__all__ = ["CLASSES", "Activation", "Kind", "augment", "classifier", "part"]

CLASSES = 10
TEST_EVERY = 5

Kind = Literal["mlp", "cnn", "resnet"]
Activation = Literal["relu", "tanh", "gelu"]


def classifier(
    task: str,
    side: int,
    model: Kind,
    batch_norm: bool,
    width: int,
    depth: int,
    activation: Activation,
) -> nn.Module:
    """A network for grey images of `side` by `side`: (N, 1, side, side) → (N, 10).

    Raises:
        SharpError: for sizes out of range, and if this machine's memory is too small.
    """
    from sharpcli.tasks.networks import check_room, check_sizes, cnn, mlp, resnet

    sizes = {"width": width, "depth": depth}
    check_sizes(task, sizes)
    if model == "resnet" and width % 4:
        raise SharpError(
            f"{task}: width {width} is not a multiple of 4: the stages of a resnet have width/4, "
            "width/2 and width channels",
            f"take {setting('options.width', max(4, width - width % 4))}",
        )
    square = width**2
    weights = {
        "mlp": side**2 * width + (depth - 1) * square,
        "cnn": 9 * (width + (depth - 1) * square),
        "resnet": 9 * 2 * depth * (square + square // 4 + square // 16),
    }
    layers = 6 * depth if model == "resnet" else depth
    check_room(task, sizes, weights[model], layers)
    networks = {
        "mlp": lambda: mlp(side**2, CLASSES, width, depth, activation, batch_norm),
        "cnn": lambda: cnn(1, side, CLASSES, width, depth, activation, batch_norm),
        "resnet": lambda: resnet(1, CLASSES, width, depth, activation, batch_norm),
    }
    return networks[model]()


def augment(batch: tuple[Tensor, Tensor], generator: Generator) -> tuple[Tensor, Tensor]:
    """Each image shifted by −1, 0 or 1 pixels, up or down and to the side; black moves in."""
    import torch

    images, classes = batch
    count, _, height, width = images.shape
    up, left = torch.randint(0, 3, (2, count, 1, 1), generator=generator).to(images.device)
    rows = up + torch.arange(height, device=images.device)[:, None]
    columns = left + torch.arange(width, device=images.device)
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1))[:, 0]
    which = torch.arange(count, device=images.device)[:, None, None]
    return framed[which, rows, columns][:, None], classes


def part(images: Tensor, classes: Tensor, split: str) -> tuple[Tensor, Tensor]:
    """The images and classes of a split: in the test split is every fifth image of each class."""
    import torch

    one_hot = torch.nn.functional.one_hot(classes, CLASSES)
    place_in_class = (one_hot.cumsum(0) * one_hot).sum(1) - 1
    test = place_in_class % TEST_EVERY == TEST_EVERY - 1
    chosen = {"train": ~test, "test": test}[split]
    return images[chosen], classes[chosen]
