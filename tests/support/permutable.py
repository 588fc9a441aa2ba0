"""Small networks of the usual kinds, with the sizes of their groups of permutable units."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from networks import CPU, mlp, task, tokens, vectors
from torch import Tensor, nn
from torch.nn import functional

from sharpcli.landscape.alignment.permutations import (
    Permutations,
    apply_permutations,
    trace_permutations,
)
from sharpcli.objective.network import Network
from sharpcli.objective.reading import read_rows
from sharpcli.tasks import Task


def images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(count, 3, 8, 8, generator=generator),
        torch.randint(0, 3, (count,), generator=generator),
    )


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, (outputs - inputs) // 2
        self.shortcut = nn.Identity()
        if shortcut == "projection":
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(inputs)), inplace=True)
        short = self.shortcut(inputs)
        if self.added and isinstance(self.shortcut, nn.Identity):  # padded, as for CIFAR
            short = functional.pad(
                short[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added)
            )
        hidden = self.norm2(self.conv2(hidden))
        hidden += short
        return functional.relu(hidden)


def resnet(shortcut: str) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        BasicBlock(6, 6, 1, "identity"),
        BasicBlock(6, 10, 2, shortcut),
        BasicBlock(10, 10, 1, "identity"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 3),
    )


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 5), (5, 7)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(28, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3)
    )


class DenseNet(nn.Module):
    """Each layer sees all features before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 5 * n) for n in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(4 + 5 * n, 5, 3, padding=1) for n in range(2))
        self.last = nn.BatchNorm2d(14)
        self.head = nn.Linear(14, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = [self.stem(inputs)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(functional.relu(norm(torch.cat(features, 1)))))
        hidden = functional.relu(self.last(torch.cat(features, 1)))
        return self.head(hidden.mean((2, 3)))


def mobilenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.BatchNorm2d(6),
        nn.Hardswish(),
        nn.Conv2d(6, 6, 3, groups=6, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU6(),
        nn.Conv2d(6, 4, 1),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def grouped() -> nn.Module:
    """Groups of channels move as wholes, in convolutions and in norms."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.GroupNorm(3, 12),
        nn.SiLU(),
        nn.Conv2d(12, 6, 3, groups=3),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2),
        nn.Flatten(),
        nn.Linear(4 * 25, 3),
    )


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.bottom = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.out = nn.Conv2d(9, 2, 3, padding=1)
        self.head = nn.Linear(2, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        left = functional.relu(self.down(inputs))
        bottom = functional.relu(self.bottom(functional.max_pool2d(left, 2)))
        joined = torch.cat([left, self.up(bottom)], 1)
        wide = functional.interpolate(self.out(joined), scale_factor=2, mode="bilinear")
        return self.head(wide.mean((2, 3)))


class Block(nn.Module):
    """A transformer block before which and in which is normalised, as in GPT-2."""

    def __init__(self, width: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width, bias=bias)
        self.project = nn.Linear(width, width, bias=bias)
        self.widen = nn.Linear(width, 4 * width, bias=bias)
        self.narrow = nn.Linear(4 * width, width, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.attend(self.norm1(hidden)).split(width, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.project(mixed.transpose(1, 2).contiguous().view(hidden.shape))
        return hidden + self.narrow(functional.gelu(self.widen(self.norm2(hidden))))


class GPT(nn.Module):
    """The output head is the embedding."""

    def __init__(self, blocks: int, *, bias: bool = True) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 8), nn.Embedding(5, 8)
        self.blocks = nn.Sequential(*(Block(8, 2, bias=bias) for _ in range(blocks)))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.words(words) + self.places(torch.arange(words.shape[1]))
        return self.head(self.norm(self.blocks(hidden)))


class ViT(nn.Module):
    """Patches by a convolution, a class token, positions, and queries, keys and values stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.places = nn.Parameter(torch.randn(1, 5, 6))
        self.attend, self.project = nn.Linear(6, 18), nn.Linear(6, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.patches(inputs).flatten(2).transpose(1, 2)
        hidden = torch.cat([self.token.expand(len(hidden), -1, -1), hidden], 1) + self.places
        stacked = self.attend(hidden).reshape(len(hidden), 5, 3, 2, 3).permute(2, 0, 3, 1, 4)
        query, key, value = stacked.unbind(0)
        weights = (query @ key.transpose(-2, -1) / 3**0.5).softmax(-1)
        hidden = hidden + self.project((weights @ value).transpose(1, 2).reshape(hidden.shape))
        return self.head(self.norm(hidden)[:, 0])


class GatedUnits(nn.Module):
    """SwiGLU and RMS norm, as in LLaMA."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(5, 6), nn.RMSNorm(6)
        self.gates, self.last = nn.Linear(6, 16, bias=False), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        gate, value = self.gates(self.norm(self.first(inputs))).chunk(2, -1)
        return self.last(functional.silu(gate) * value)


def recurrent() -> nn.Module:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            state = torch.zeros(len(inputs), 6, dtype=inputs.dtype)
            for _ in range(3):
                state = torch.tanh(self.inner(inputs) + self.outer(state))
            return self.head(state)

    return Recurrent()


def batch_norm_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(5, 9, bias=False),
        nn.BatchNorm1d(9),
        nn.ReLU(),
        nn.Linear(9, 8, bias=False),
        nn.BatchNorm1d(8, affine=False),
        nn.PReLU(8),
        nn.Linear(8, 3),
    )


# Each with the sizes of its groups, smallest first, as counted by hand.
ARCHITECTURES: dict[str, tuple[Task, list[int]]] = {
    "mlp": (task(lambda: mlp(5, 9, 8, 3, activation=nn.ReLU), vectors(5, 3)), [8, 9]),
    "batch_norm_mlp": (task(batch_norm_mlp, vectors(5, 3)), [8, 9]),
    "vgg": (task(vgg, images), [5, 7, 9]),
    # Two residual streams, and what is inside each of three blocks.
    "resnet": (task(lambda: resnet("projection"), images), [6, 6, 10, 10, 10]),
    # The second stream is two new channels, the first stream, and two new channels.
    "padded_resnet": (task(lambda: resnet("padding"), images), [2, 2, 6, 6, 10, 10]),
    "densenet": (task(DenseNet, images), [4, 5, 5]),
    "mobilenet": (task(mobilenet, images), [4, 6]),
    # 12 channels are 3 groups of 4, 6 are the same 3 groups of 2.
    "grouped": (task(grouped, images), [2, 3, 4, 4]),
    "unet": (task(UNet, images), [2, 4, 5, 6]),
    # The stream; in each block two heads, 4 units of queries and keys, 4 of values, 32 of the MLP.
    "gpt": (task(lambda: GPT(2), tokens), [2, 2, 4, 4, 4, 4, 8, 32, 32]),
    "gpt_without_bias": (task(lambda: GPT(1, bias=False), tokens), [2, 4, 4, 8, 32]),
    "vit": (task(ViT, images), [2, 3, 6]),
    "gated": (task(GatedUnits, vectors(5, 3)), [6, 8]),
    "recurrent": (task(recurrent, vectors(5, 3)), [6]),
}


@dataclass(frozen=True)
class Case:
    """A network, ten examples and what its structure is found to be."""

    network: Network
    batch: Any
    tensors: dict[str, Tensor]
    structure: Permutations

    def outputs(self, tensors: Mapping[str, Tensor]) -> Tensor:
        network = self.network
        parameters = network.unflatten(network.flatten(tensors))
        with torch.no_grad():
            return network.outputs(parameters, network.fixed(tensors), self.batch)

    def permuted(
        self, tensors: Mapping[str, Tensor], seed: int = 0
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randperm(g.size, generator=generator) for g in self.structure.groups]
        return apply_permutations(self.structure, tensors, drawn), drawn


@functools.cache
def architecture(name: str) -> Case:
    """The case of one of the architectures, traced once."""
    return case(ARCHITECTURES[name][0])


def case(of: Task, seed: int = 0) -> Case:
    """The case of a task in float64, with every parameter and statistic drawn at random."""
    network = Network(of.model(), of, device=CPU, dtype=torch.float64)
    rows = read_rows(of.data("train"), name="train data").to(CPU, torch.float64).head(10)
    tensors = drawn_tensors(of, seed)
    structure = trace_permutations(network, rows.head(2).batch, tensors)
    return Case(network, rows.batch, tensors, structure)


def drawn_tensors(of: Task, seed: int) -> dict[str, Tensor]:
    """A state dict of a task's model with values drawn by `seed`; tied tensors stay tied."""
    generator = torch.Generator().manual_seed(seed)
    model = of.model().double()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(drawn.abs() + 0.5 if tensor.ndim == 1 else 0.5 * drawn)
    return dict(model.state_dict())
