"""The small networks of the built-in tasks, and whether there is room for one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpcli.errors import SharpError, setting
from sharpcli.runtime.memory import available_memory, readable_size

__all__ = ["ACTIVATIONS", "check_room", "check_sizes", "cnn", "gpt", "mlp", "resnet"]

# Memory of a layer without its numbers: modules, dictionaries and tensors. Measured: 8 kB.
_BYTES_A_LAYER = 8000
_MOST = 10**9  # of a width, a depth and the like: more than any machine has room for
_INITIAL_STD = 0.02  # of a GPT's weights, as in GPT-2

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def check_sizes(task: str, sizes: Mapping[str, int]) -> None:
    """Raise `SharpError` where one of a task's `sizes` (options by name) is not 1 to 10⁹."""
    if not all(1 <= value <= _MOST for value in sizes.values()):
        raise SharpError(
            f"{task}: {_listed(sizes)} must be between 1 and {_MOST:,}",
            f"see {', '.join(setting(f'options.{name}') for name in sizes)}",
        )


def _listed(sizes: Mapping[str, int]) -> str:
    """Sizes in words: `width 64 and depth 2`."""
    *first, last = (f"{name} {value}" for name, value in sizes.items())
    return f"{', '.join(first)} and {last}" if first else last


def check_room(task: str, sizes: Mapping[str, int], weights: int, layers: int) -> None:
    """Check that the weights of a task's network fit in this machine's memory.

    Args:
        task: the task's name.
        sizes: the options that the size follows from, by name.
        weights: how many parameters the network has, about.
        layers: how many layers it has, about.

    Raises:
        SharpError: the weights alone do not fit.
    """
    if torch.get_default_device().type == "meta":
        return  # nothing is allocated there
    needed, free = 4 * weights + _BYTES_A_LAYER * layers, available_memory(torch.device("cpu"))
    if needed > free:
        raise SharpError(
            f"{task}: {_listed(sizes)} make a model of {weights:.3g} parameters, "
            f"which takes {readable_size(needed)}, and {readable_size(free)} of memory are free",
            f"take a smaller {' or '.join(setting(f'options.{name}') for name in sizes)}",
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


def resnet(
    channels: int, classes: int, width: int, depth: int, activation: str, batch_norm: bool
) -> nn.Sequential:
    """A residual network as for CIFAR: (N, channels, H, W) → (N, classes).

    A 3x3 convolution; three stages of `depth` blocks of two convolutions, with width/4, width/2
    and width channels, the side halved before the second and the third; the mean over places and
    one linear layer: 6·depth + 2 layers. Where a block changes the shape, its input passes a 1x1
    convolution to be added. `batch_norm` as in `mlp`. Convolutions are drawn as in the paper.
    Without `batch_norm` the last one of each block begins at zero, or training is not stable.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2; Zhang et
    al., Fixup Initialization, 2019.
    """
    layers = [*_convolution(channels, width // 4, 3, 1, batch_norm), ACTIVATIONS[activation]()]
    before = width // 4
    for stage, after in enumerate((width // 4, width // 2, width)):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers.append(_ResidualBlock(before, after, stride, activation, batch_norm))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def _convolution(
    before: int, after: int, size: int, stride: int, batch_norm: bool
) -> list[nn.Module]:
    """A convolution that keeps the side but for its stride, normalised where asked for."""
    layer = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=not batch_norm)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return [layer, nn.BatchNorm2d(after)] if batch_norm else [layer]


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to their input."""

    def __init__(
        self, before: int, after: int, stride: int, activation: str, batch_norm: bool
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(before, after, 3, stride, batch_norm),
            ACTIVATIONS[activation](),
            *_convolution(after, after, 3, 1, batch_norm),
        )
        if isinstance(last := self.branch[-1], nn.Conv2d):  # it is not normalised
            nn.init.zeros_(last.weight)
        changed = stride != 1 or before != after
        self.shortcut = nn.Sequential(
            *(_convolution(before, after, 1, stride, batch_norm) if changed else [])
        )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, images: Tensor) -> Tensor:
        added: Tensor = self.activation(self.branch(images) + self.shortcut(images))
        return added


def gpt(
    vocabulary: int, context: int, layers: int, heads: int, width: int, dropout: float
) -> nn.Module:
    """A decoder-only transformer: tokens (N, T), T ≤ context → logits (N, T, vocabulary).

    Pre-norm blocks of causal attention and an MLP four times as wide, learned positions, and an
    output layer that shares its weights with the embedding. Weights are drawn as GPT-2's.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
    """
    return _GPT(vocabulary, context, layers, heads, width, dropout)


class _GPT(nn.Module):
    """See `gpt`."""

    def __init__(
        self, vocabulary: int, context: int, layers: int, heads: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                # The stream is the sum of the embedding and of two branches a block.
                ends_branch = name.endswith(("mixed", "down"))
                share = (2 * layers) ** -0.5 if ends_branch else 1.0
                nn.init.normal_(module.weight, std=_INITIAL_STD * share)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        stream = self.dropout(self.embedding(tokens) + self.positions(places))
        return functional.linear(self.norm(self.blocks(stream)), self.embedding.weight)


class _Block(nn.Module):
    """Causal attention and an MLP, each normalised before and added to the stream (N, T, width)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self.dropout(self.mixed(self._attention(self.norm_attention(stream))))
        hidden = functional.gelu(self.up(self.norm_mlp(stream)))
        added: Tensor = stream + self.dropout(self.down(hidden))
        return added

    def _attention(self, inputs: Tensor) -> Tensor:
        count, length, width = inputs.shape
        by_head = self.queries_keys_values(inputs).view(count, length, 3, self.heads, -1)
        queries, keys, values = by_head.permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=True
        )
        return attended.transpose(1, 2).reshape(count, length, width)
