"""The small networks of the built-in tasks."""

from __future__ import annotations

import torch
from torch import nn

from sharpcli.errors import SharpError, setting
from sharpcli.runtime.memory import available_memory, readable_size

__all__ = ["ACTIVATIONS", "check_room", "cnn", "mlp"]

# Memory of a layer without its numbers: modules, dictionaries and tensors. Measured: 8 kB.
_BYTES_A_LAYER = 8000

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def check_room(task: str, inputs: int, width: int, depth: int, taps: int) -> None:
    """Check that a task's network fits in this machine's memory.

    It has `depth` layers of `width` units, with `taps` weights for each pair of units.

    Raises:
        SharpError: the weights alone do not fit.
    """
    if torch.get_default_device().type == "meta":
        return  # nothing is allocated there
    pairs = inputs * width + (depth - 1) * width**2
    weights = taps * pairs + depth * width
    needed, free = 4 * weights + _BYTES_A_LAYER * depth, available_memory(torch.device("cpu"))
    if needed > free:
        raise SharpError(
            f"{task}: width {width} and depth {depth} make a model of {weights:.3g} parameters, "
            f"needing {readable_size(needed)}, but only {readable_size(free)} of memory are free",
            f"take a smaller {setting('options.width')} or {setting('options.depth')}",
        )


def mlp(
    inputs: int, classes: int, width: int, depth: int, activation: str, batch_norm: bool
) -> nn.Sequential:
    """A fully connected network: (N, …) of `inputs` values each → (N, classes).

    It has `depth` hidden layers of `width` units. With `batch_norm`, each layer is normalised
    before its activation and has no bias.
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

    It has `depth` 3x3 convolutions of `width` channels and one linear layer. Each convolution
    halves the side while it is over 2. `batch_norm` is as in `mlp`.
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
