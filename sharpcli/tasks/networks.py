"""The small networks of the built-in tasks."""

from __future__ import annotations

from torch import nn

__all__ = ["ACTIVATIONS", "cnn", "mlp"]

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def mlp(
    inputs: int, classes: int, width: int, depth: int, activation: str, batch_norm: bool
) -> nn.Sequential:
    """A fully connected network: (N, …) of `inputs` values each → (N, classes).

    `depth` hidden layers of `width` units; with `batch_norm`, each is normalised before its
    activation and has no bias of its own.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        layers.append(nn.Linear(inputs, width, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(ACTIVATIONS[activation]())
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def cnn(
    channels: int,
    side: int,
    classes: int,
    width: int,
    depth: int,
    activation: str,
    batch_norm: bool,
) -> nn.Sequential:
    """A convolutional network: (N, channels, side, side) → (N, classes).

    `depth` 3x3 convolutions of `width` channels, the side halved after each while it is over 2,
    and one linear layer; `batch_norm` as in `mlp`.
    """
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(ACTIVATIONS[activation]())
        if side > 2:
            layers.append(nn.AvgPool2d(2))
            side //= 2
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, classes))
