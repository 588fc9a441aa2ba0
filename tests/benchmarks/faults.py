"""Networks with an operation whose second derivative is wrong or missing, and ordinary ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Network:
    """A model with its data in memory and its loss (None: cross-entropy)."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Loss | None = None


def _slope(inputs: Tensor) -> Tensor:
    """Derivative of SiLU."""
    gate = inputs.sigmoid()
    return gate * (1 + inputs * (1 - gate))


class _Detached(torch.autograd.Function):
    """SiLU as from a C++ extension: its backward pass is right and has no graph."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs * inputs.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient * _slope(ctx.saved_tensors[0])).detach()


class _Intermediate(torch.autograd.Function):
    """SiLU whose backward pass uses a number that forward has computed."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        gate = inputs.sigmoid()
        ctx.save_for_backward(inputs, gate)
        return inputs * gate

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        inputs, gate = ctx.saved_tensors
        return gradient * (gate * (1 + inputs * (1 - gate)))


class _Once(torch.autograd.Function):
    """SiLU that is marked as differentiable once."""

    forward = _Detached.forward

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * _slope(ctx.saved_tensors[0])


class _Attribute(torch.autograd.Function):
    """SiLU that keeps its input outside of `save_for_backward`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.inputs = inputs.detach().clone()
        return inputs * inputs.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * _slope(ctx.inputs)


class _OneInput(torch.autograd.Function):
    """A product of two tensors whose backward pass has no graph for the second."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return left * right

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        return gradient * right.detach(), gradient * left


class _InPlace(torch.autograd.Function):
    """SiLU that overwrites its input and keeps a copy of its slope."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(_slope(inputs))
        ctx.mark_dirty(inputs)
        return inputs.mul_(inputs.sigmoid())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


class _WrongSlope(torch.autograd.Function):
    """SiLU's slope, the derivative of which is written out and wrong by a twentieth."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return _slope(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gate = ctx.saved_tensors[0].sigmoid()
        bend = gate * (1 - gate) * (2 + ctx.saved_tensors[0] * (1 - 2 * gate))
        return gradient * 1.05 * bend


class _Written(torch.autograd.Function):
    """SiLU with a double backward pass of its own."""

    forward = _Detached.forward

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * _WrongSlope.apply(ctx.saved_tensors[0])


def _without_grad(inputs: Tensor) -> Tensor:
    with torch.no_grad():
        gate = inputs.sigmoid()
    return inputs * gate


def _straight_through(inputs: Tensor) -> Tensor:
    return inputs + ((inputs * 4).round() / 4 - inputs).detach()


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "backward pass detached": _Detached.apply,
    "backward from an intermediate": _Intermediate.apply,
    "differentiable once": _Once.apply,
    "input kept as an attribute": _Attribute.apply,
    "no graph for one of two inputs": lambda h: _OneInput.apply(h, h.sigmoid()),
    "in place, its slope kept": lambda h: _InPlace.apply(h * 1.0),
    "own double backward, 5 % off": _Written.apply,
    "torch.no_grad() inside": _without_grad,
    ".data inside": lambda h: h * h.data.sigmoid(),
    "straight-through estimator": _straight_through,
}


class _Plain(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.operation = nn.Linear(6, 8), nn.Linear(8, 3), operation

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.act(self.first(inputs), inputs))

    def act(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return self.operation(hidden)


class _Share(_Plain):
    """Half a percent of the activation goes through the operation."""

    def act(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        return hidden.tanh() + 0.005 * self.operation(hidden)


class _Rows(_Plain):
    """Few rows go through the operation: all are computed, and most are masked out."""

    def act(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        rare = inputs[:, :1] > 1.5
        return torch.where(rare, self.operation(hidden), functional.silu(hidden))


class _Branch(_Plain):
    """A batch without such rows does not call the operation at all."""

    def act(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        rare, found = inputs[:, 0] > 2.5, functional.silu(hidden)
        if not bool(rare.any()):
            return found
        return found.index_put((rare.nonzero()[:, 0],), self.operation(hidden[rare]))


class _Deep(nn.Module):
    """Twelve layers, of which the seventh uses the operation."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        widths = [6, *[4] * 11, 3]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.operation = operation

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        for number, layer in enumerate(self.layers):
            out = layer(hidden)
            if number == 11:
                return out
            bent = self.operation(out) if number == 6 else out.tanh()
            hidden = bent if number == 0 else hidden + bent
        raise AssertionError


class _Aside(nn.Module):
    """A second head at its targets, which has no gradient and most of the curvature."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.main, self.aside, self.operation = nn.Linear(6, 4), nn.Linear(6, 3), operation

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.main(inputs), self.operation(self.aside(inputs))


def faulty() -> list[Network]:
    """Every operation in every place: 60 networks."""
    found = []
    for (name, operation), (where, kind, count) in itertools.product(
        OPERATIONS.items(),
        (
            ("everywhere", _Plain, 96),
            ("0.5 % of a layer", _Share, 96),
            ("the last rows", _Rows, 300),
            ("a branch for 1 % of 2,000 rows", _Branch, 2000),
            ("one of twelve layers", _Deep, 96),
            ("a part without gradient", _Aside, 96),
        ),
    ):
        generator = torch.Generator().manual_seed(len(found))
        inputs = torch.randn(count, 6, generator=generator)
        inputs = inputs[inputs[:, 0].argsort()]  # sorted: what is rare comes last
        targets = torch.randint(0, 3, (count,), generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(found))
            model = kind(operation)
        loss: Loss | None = None
        if kind is _Aside:
            with torch.no_grad():
                targets = model(inputs)[1].clone()
            loss = _two_heads
        found.append(Network(f"{name}: {where}", model, inputs, targets, loss))
    return found


def _two_heads(outputs: Any, batch: Any) -> Tensor:
    main, aside = outputs
    return (main - 1).square().mean(1) + (aside - batch[1]).square().sum(1)


class _Attention(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(11, 8), layer, nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(words)).mean(1))


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer, self.head = kind(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs.unflatten(1, (-1, 6)))[0][:, -1])


def _mlp(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for left, right in itertools.pairwise(widths):
        layers += [nn.Linear(left, right), activation()]
    return nn.Sequential(*layers[:-1])


def _cnn(*middle: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *middle, nn.Flatten(), nn.Linear(features, 3))


def _trained(model: nn.Module, inputs: Tensor, targets: Tensor, until: float) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5000):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs).double(), targets)
        if float(loss.detach()) < until:
            break
        loss.backward()
        optimizer.step()
    model.zero_grad()
    return model


def _dead() -> nn.Module:
    model = _mlp(6, 20, 20, 3)
    with torch.no_grad():
        model[0].bias[:10] = -50.0
        model[2].bias[:15] = -50.0
    return model


def _batch_norm() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.3, 3)  # type: ignore[union-attr]
    return _cnn(norm, nn.ReLU(), features=144)


def _scaled(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= factor
    return model


def _regression(name: str) -> Loss:
    losses = {
        "squares": lambda o, t: (o - t).square().sum(1),
        "absolute values": lambda o, t: (o - t).abs().sum(1),
        "Huber's loss": lambda o, t: functional.huber_loss(o, t, reduction="none").sum(1),
        "Poisson": lambda o, t: functional.poisson_nll_loss(o, t.abs(), reduction="none").sum(1),
        "cosine": lambda o, t: 1 - functional.cosine_similarity(o, t, dim=1),
    }
    return lambda outputs, batch: losses[name](outputs, batch[1])


def ordinary() -> list[Network]:
    """Networks of PyTorch's own operations, with kinks, tiny losses and unscaled inputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=generator)
    y = torch.randint(0, 3, (96,), generator=generator)
    images = torch.randn(96, 1, 8, 8, generator=generator)
    words = torch.randint(0, 11, (96, 7), generator=generator)
    real = torch.randn(96, 3, generator=generator)
    units = torch.tensor([1e-3, 1.0, 10.0, 100.0, 1e3, 1e4])
    many = torch.randn(2000, 6, generator=generator)
    classes = torch.randint(0, 3, (2000,), generator=generator)
    torch.manual_seed(0)
    activations = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Hardswish)
    transformer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    layer_norm = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))
    made: list[tuple[str, nn.Module, Tensor, Tensor, Loss | None]] = [
        *(
            (f"MLP, {a.__name__}", _mlp(6, 16, 16, 3, activation=a), x, y, None)
            for a in activations
        ),
        ("LayerNorm", layer_norm, x, y, None),
        ("max-pooling", _cnn(nn.ReLU(), nn.MaxPool2d(2), features=36), images, y, None),
        ("average pooling", _cnn(nn.GELU(), nn.AvgPool2d(2), features=36), images, y, None),
        ("batch norm", _batch_norm(), images, y, None),
        ("group norm", _cnn(nn.GroupNorm(2, 4), nn.ReLU(), features=144), images, y, None),
        ("attention", _Attention(transformer), words, y, None),
        ("LSTM", _Recurrent(nn.LSTM), x, y, None),
        ("GRU", _Recurrent(nn.GRU), x, y, None),
        ("dead ReLUs", _dead(), x, y, None),
        ("unscaled inputs", _mlp(6, 16, 3), x * units, y, None),
        ("unscaled inputs, tanh", _mlp(6, 16, 3, activation=nn.Tanh), x * units, y, None),
        ("large weights", _scaled(_mlp(6, 32, 32, 3), 8.0), x, y, None),
        ("small weights", _scaled(_mlp(6, 32, 32, 3), 0.02), x, y, None),
        ("2,000 rows", _mlp(6, 64, 64, 3), many, classes, None),
        ("20 layers", _mlp(6, *[12] * 19, 3), x, y, None),
        *(
            (f"loss below {until:.0e}", _trained(_mlp(6, 64, 64, 3), x, y, until), x, y, None)
            for until in (1e-3, 1e-5, 1e-7)
        ),
        *(
            (name, _mlp(6, 16, 3), x, real, _regression(name))
            for name in ("squares", "absolute values", "Huber's loss", "Poisson", "cosine")
        ),
    ]
    return [Network(*each) for each in made]
