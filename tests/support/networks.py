"""The one table of small networks that the tests of the numerics share, and their reference.

Each case is a `Task`: a seeded model, its data and its loss. `dense_hessian` and its kin are plain
PyTorch in float64, column by column, and share no code with the package.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset

from sharpcli.measures import Context
from sharpcli.objective.objective import Objective
from sharpcli.runs.study import prepare
from sharpcli.tasks import Task, defaults

TRAIN, TEST = 23, 11  # in batches of 3 the last of the train split's eight has two rows
UNEVEN = (TRAIN, 12, 3)  # batch sizes that make 1, 2 and 8 batches
CPU = torch.device("cpu")


def task(
    model: Callable[[], nn.Module],
    data: Callable[[int, torch.Generator], Any],
    *,
    name: str = "case",
    predict: Callable[[nn.Module, Any], Any] = defaults.predict,
    loss: Callable[[Any, Any], Any] | None = None,
    metrics: Callable[[Any, Any], Mapping[str, Any]] | None = defaults.metrics,
    seed: int = 0,
    train: int = TRAIN,
) -> Task:
    """A task whose model and data are the same at every call."""

    def built() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return model()

    def split(which: str) -> Any:
        generator = torch.Generator().manual_seed(seed + (which == "test"))
        return data(train if which == "train" else TEST, generator)

    return Task(
        name, {}, f"{name}-{seed}", built, split, predict, loss or defaults.loss_for(name), metrics
    )


def vectors(features: int, classes: int) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    def data(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return (
            torch.randn(count, features, generator=generator),
            torch.randint(0, classes, (count,), generator=generator),
        )

    return data


def images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(count, 1, 6, 6, generator=generator),
        torch.randint(0, 3, (count,), generator=generator),
    )


def tokens(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    words = torch.randint(0, 7, (count, 6), generator=generator)
    return words[:, :-1], words[:, 1:]


def mostly_ignored(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens of which example i counts i mod 6: the first counts none, the sixth all five."""
    words, targets = tokens(count, generator)
    counting = torch.arange(count)[:, None] % 6 > torch.arange(targets.shape[1])
    return words, torch.where(counting, targets, defaults.IGNORED)


def real_targets(features: int, outputs: int) -> Callable[[int, torch.Generator], Any]:
    def data(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return (
            torch.randn(count, features, generator=generator),
            torch.randn(count, outputs, generator=generator),
        )

    return data


def squared_error(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs - batch[1]).square().sum(1)


def mlp(*sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    )


def batch_norm() -> nn.Module:
    """Batch norm whose running statistics are far from those of any batch."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.3, 3)  # type: ignore[union-attr]
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), norm, nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def layer_norm() -> nn.Module:
    """The second norm's input depends on parameters, the first one's weight among them."""
    return nn.Sequential(
        nn.Linear(5, 8),
        nn.LayerNorm(8),
        nn.Tanh(),
        nn.Linear(8, 6),
        nn.LayerNorm(6),
        nn.Linear(6, 3),
    )


class Attention(nn.Module):
    """One causal attention layer over seven words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.project = nn.Linear(6, 18)
        self.head = nn.Linear(6, 7)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.embed(words)
        query, key, value = (
            part.unflatten(-1, (2, 3)).transpose(1, 2) for part in self.project(hidden).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.head(hidden + mixed.transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """PyTorch's own transformer layer, which has an inference-only path."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, 7)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(words)))


class Tied(nn.Module):
    """The embedding is the output head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embed(words))))


class Twins(nn.Module):
    """Two copies of one network side by side: every eigenvalue is double."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(5, 12, 3), mlp(5, 12, 3)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(inputs), self.second(inputs)


def twins_loss(outputs: tuple[Tensor, Tensor], batch: Any) -> Tensor:
    losses = [functional.cross_entropy(each, batch[1], reduction="none") for each in outputs]
    return losses[0] + losses[1]


class Records(Dataset[dict[str, Tensor]]):
    """A map-style data set whose rows are mappings."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.inputs, self.labels = vectors(5, 3)(count, generator)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class Unused(nn.Module):
    """Has a layer that its output does not depend on, between two that count."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.unused = nn.Linear(3, 1)
        self.last = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(inputs)))


class WrongSecond(torch.autograd.Function):
    """Squares; the gradient is right, its derivative forgets that it depends on the input."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs**2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        return 2 * inputs.detach() * gradient


def frozen() -> nn.Module:
    model = mlp(5, 9, 8, 3)
    model[0].requires_grad_(False)  # type: ignore[index]
    return model


CASES: dict[str, Task] = {
    "tanh": task(lambda: mlp(5, 9, 8, 3), vectors(5, 3)),
    "relu": task(lambda: mlp(6, 10, 8, 4, activation=nn.ReLU), vectors(6, 4)),
    "gelu": task(lambda: mlp(6, 10, 8, 4, activation=nn.GELU), vectors(6, 4)),
    "conv": task(conv, images),
    "batch_norm": task(batch_norm, images),
    "layer_norm": task(layer_norm, vectors(5, 3)),
    "attention": task(Attention, tokens),
    "encoder": task(Encoder, tokens),
    "tied": task(Tied, tokens),
    "ignored_tokens": task(Attention, mostly_ignored),
    "triples": task(
        lambda: nn.Linear(80, 3), real_targets(80, 3), loss=squared_error, metrics=None
    ),
    "twins": task(Twins, vectors(5, 3), loss=twins_loss, metrics=None),
    "mapping": task(
        lambda: mlp(5, 11, 3, activation=nn.SiLU),
        Records,
        predict=lambda model, batch: model(batch["inputs"]),
        loss=lambda outputs, batch: functional.cross_entropy(
            outputs, batch["labels"], reduction="none"
        ),
    ),
    "unused": task(Unused, vectors(5, 3)),
    "frozen": task(frozen, vectors(5, 3)),
}


def objective(
    of: Task, dtype: str = "float64", *, batch_size: int | None = None, **run: Any
) -> tuple[Objective, Tensor]:
    """The objective of a task on its train split and the θ that its model starts with."""
    settings = RunSettings(device="cpu", dtype=dtype, batch_size=batch_size, **run)  # type: ignore[arg-type]
    study = prepare(of, settings, CPU)
    tensors = of.model().state_dict()
    return study.objectives(tensors)[settings.split], study.network.flatten(tensors)


def context(
    of: Task,
    dtype: str = "float64",
    *,
    batch_size: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> Context:
    """What a measure is handed, for a task's own starting parameters; keywords are settings."""
    run = RunSettings(
        device="cpu",
        dtype=dtype,  # type: ignore[arg-type]
        batch_size=batch_size,
        samples=samples,
        seed=seed,
    )
    study = prepare(of, run, CPU)
    tensors = of.model().state_dict()
    splits = study.objectives(tensors)
    theta = study.network.flatten(tensors)
    return Context(splits["train"], splits, theta, MeasureSettings(**settings), seed=seed)


def _double(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _double(value) for key, value in node.items()}
    return node.double() if node.is_floating_point() else node


def _double_batch(of: Task, split: str) -> Any:
    data = of.data(split)
    if isinstance(data, tuple):
        return tuple(_double(column) for column in data)
    rows = [data[index] for index in range(len(data))]
    return {key: _double(torch.stack([row[key] for row in rows])) for key in rows[0]}


def _reference(of: Task, split: str = "train") -> tuple[list[Tensor], Tensor]:
    """The parameters that are measured, and the mean loss as a function of them, in float64."""
    model = of.model().double().eval()
    batch = _double_batch(of, split)
    found = of.loss(of.predict(model, batch), batch)
    mean = found[0].sum() / found[1].sum() if isinstance(found, tuple) else found.mean()
    return [p for p in model.parameters() if p.requires_grad], mean


def _flat(parts: Any, parameters: list[Tensor]) -> Tensor:
    filled = [
        torch.zeros_like(p) if part is None else part
        for part, p in zip(parts, parameters, strict=True)
    ]
    return torch.cat([part.reshape(-1) for part in filled])


@functools.cache
def _dense(name: str) -> tuple[float, Tensor, Tensor]:
    with sdpa_kernel(SDPBackend.MATH):
        parameters, mean = _reference(CASES[name])
        parts = torch.autograd.grad(mean, parameters, create_graph=True, allow_unused=True)
        gradient = _flat(parts, parameters)
        columns = [
            _flat(
                torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True),
                parameters,
            )
            if entry.requires_grad
            else torch.zeros(len(gradient), dtype=torch.float64)
            for entry in gradient
        ]
    matrix = torch.stack(columns)
    return float(mean.detach()), gradient.detach(), (matrix + matrix.T) / 2


def dense_loss(name: str) -> float:
    """The train loss of a case."""
    return _dense(name)[0]


def dense_gradient(name: str) -> Tensor:
    """The train loss's gradient (n,)."""
    return _dense(name)[1]


def dense_hessian(name: str) -> Tensor:
    """The Hessian (n, n) by double backward, a column at a time.

    Not `torch.func.hessian`, which loses the second derivative of a LayerNorm weight whose input
    depends on parameters.
    """
    return _dense(name)[2]


@functools.cache
def dense_gauss_newton(name: str) -> Tensor:
    """Jᵀ B J (n, n) with J a row for each number of the outputs, and B a row for each too."""
    of = CASES[name]
    model, batch = of.model().double().eval(), _double_batch(of, "train")
    parameters = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        outputs = of.predict(model, batch)
        several = isinstance(outputs, tuple)
        parts = list(outputs) if several else [outputs]
        points = [part.detach().requires_grad_() for part in parts]
        found = of.loss(tuple(points) if several else points[0], batch)
        mean = found[0].sum() / found[1].sum() if isinstance(found, tuple) else found.mean()
        slopes = torch.autograd.grad(mean, points, create_graph=True)
        bends = _rows(torch.cat([slope.reshape(-1) for slope in slopes]), points)
        jacobian = _rows(torch.cat([part.reshape(-1) for part in parts]), parameters)
    return jacobian.T @ bends @ jacobian


@functools.cache
def dense_empirical_fisher(name: str) -> Tensor:
    """Σ ∇ℓᵢ ∇ℓᵢᵀ / Σ weight (n, n), the gradients one by one."""
    of = CASES[name]
    model, batch = of.model().double().eval(), _double_batch(of, "train")
    parameters = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        found = of.loss(of.predict(model, batch), batch)
        losses, weights = found if isinstance(found, tuple) else (found, torch.ones_like(found))
        gradients = _rows(losses, parameters)
    return gradients.T @ gradients / weights.sum()


def _rows(entries: Tensor, points: list[Tensor]) -> Tensor:
    """The gradient of every entry (m,) in the points, a row each (m, n)."""
    return torch.stack(
        [
            _flat(
                torch.autograd.grad(
                    entry, points, retain_graph=True, allow_unused=True, materialize_grads=True
                ),
                points,
            )
            for entry in entries
        ]
    )


@functools.cache
def dense_eigenvalues(name: str) -> Tensor:
    """All eigenvalues (n,), largest first."""
    return torch.linalg.eigvalsh(dense_hessian(name)).flip(0)


def relative(found: Any, true: Any) -> float:
    """The largest difference as a share of the largest true value."""
    found, true = torch.as_tensor(found).double(), torch.as_tensor(true).double()
    return float((found - true).abs().max() / true.abs().max())
