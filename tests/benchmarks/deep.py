"""Deep networks near a minimum of their loss: a ResNet-20 with batch norm, a GPT of four layers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import torch
from problem import Problem, epochs_of_adam, mnist
from torch import Tensor, nn
from torch.nn import functional


class _Residual(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut, 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.shortcut = nn.Identity()
        if inputs != outputs:
            thin = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(thin, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(hidden)) + self.shortcut(x))


def resnet_20(channels: int = 1, classes: int = 10) -> nn.Sequential:
    """ResNet-20 of He et al. 2016: three stages of three blocks, 16, 32 and 64 wide."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for width in (16, 32, 64):
        for _ in range(3):
            layers.append(_Residual(before, width, 1 if before == width else 2))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


@functools.cache
def resnet_problem(count: int = 512, epochs: int = 8) -> Problem:
    """The ResNet-20 in eval mode after some epochs of Adam on MNIST images of 14x14 pixels."""
    torch.manual_seed(0)
    images, targets = mnist(count)
    inputs = functional.avg_pool2d(images.view(-1, 1, 28, 28), 2)
    model = resnet_20()
    for _ in zip(
        range(epochs), epochs_of_adam(model, inputs, targets, batch=64, seed=0), strict=False
    ):
        pass
    model.eval()
    with torch.no_grad():
        loss = float(functional.cross_entropy(model(inputs).double(), targets))
    model.zero_grad(set_to_none=True)
    return Problem(f"ResNet-20, {count} images of 14x14", model, inputs, targets, loss)


class _Block(nn.Module):
    """Causal attention and a GELU network, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        split = self.queries_keys_values(self.before(x)).view(count, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).reshape(count, length, width))
        return x + self.mlp(self.between(x))


class Gpt(nn.Module):
    """A GPT over bytes: blocks between an embedding and a linear head.

    Gives logits (N, 256, length), as PyTorch's cross-entropy takes them.
    """

    def __init__(self, layers: int, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.head(self.norm(self.blocks(self.tokens(tokens) + self.places)))
        return logits.transpose(1, 2)


def token_loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every token: each example's sum, and how many tokens it has."""
    losses = functional.cross_entropy(outputs.double(), batch[1], reduction="none").sum(1)
    return losses, torch.full_like(losses, batch[1].shape[1]).detach()


@functools.cache
def gpt_problem(
    layers: int = 4, width: int = 128, count: int = 64, length: int = 64, steps: int = 60
) -> Problem:
    """A GPT after some steps of Adam on the bytes of Python's help topics."""
    torch.manual_seed(0)
    inputs, targets = _text(count, length)
    model = Gpt(layers, width, max(width // 32, 1), length)
    loss = [loss for _, loss in zip(range(steps), _steps(model, inputs, targets), strict=False)][-1]
    name = f"GPT, {layers} layers, width {width}, {count}x{length} bytes"
    return Problem(name, model, inputs, targets, loss)


def _text(count: int, length: int) -> tuple[Tensor, Tensor]:
    from pydoc_data.topics import topics

    text = "".join(topics[name] for name in sorted(topics)).encode()[: count * (length + 1)]
    rows = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().view(count, length + 1)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def _steps(model: nn.Module, inputs: Tensor, targets: Tensor) -> Iterator[float]:
    """Train on all of the data for ever; give the loss before each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    while True:
        optimizer.zero_grad()
        sums, weights = token_loss(model(inputs), (inputs, targets))
        loss = sums.sum() / weights.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss.detach())


def small(problem: Problem, count: int) -> Problem:
    """The same model with the first `count` rows of its data."""
    return replace(problem, inputs=problem.inputs[:count], targets=problem.targets[:count])
