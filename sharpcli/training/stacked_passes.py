"""The losses of a batch for each run of a stack: one pass of all networks, whose weights differ."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.objective.losses import sums_and_weights
from sharpcli.tasks import Task, defaults

__all__ = ["StackedPass"]

# Layers without tensors that treat each number by itself. The result of those of the second kind
# may depend in its last bit on where in the memory a number is, so they take run by run.
_EXACT = (nn.Identity, nn.ReLU, nn.LeakyReLU)
_ROUNDED = (nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU, nn.ELU, nn.Softplus)

# Where a batch begins in memory, and whether its numbers fill the processor's registers, decides by
# which code they are taken. A batch of a multiple of so many examples is rounded as it is alone.
_LANES = 16

Layer = Callable[[Mapping[str, Tensor], Tensor], Tensor]


class StackedPass:
    """Mean losses (runs,) of batches, from tensors with the runs as their first axis.

    A plain stack of linear layers and activations takes products of stacks of matrices. Every other
    network is run by `torch.func.vmap`. Random numbers in a pass are refused by `vmap`.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._task = task
        self._model = copy.deepcopy(model).train()
        self._places = _places(self._model)
        self._updated = [name for name, _ in self._model.named_buffers()]
        layers = _layers(self._model) if defaults.is_default(task.predict) else None
        self._layers = layers if defaults.is_default(task.loss) else None

    @property
    def by_layers(self) -> bool:
        """Whether it takes products of stacks of matrices, and not `vmap`."""
        return self._layers is not None

    def losses(self, tensors: Mapping[str, Tensor], batch: Any, count: int) -> Tensor:
        """The mean loss of each run on its own batch of `count` examples.

        `tensors` are parameters and buffers by name. Buffers are updated in place.
        """
        if self._layers is not None and isinstance(batch, tuple | list) and len(batch) == 2:
            return self._by_layers(self._layers, tensors, batch, count)
        found, buffers = torch.vmap(self._mean_loss, in_dims=(0, 0, None))(
            dict(tensors), batch, count
        )
        for name, value in buffers.items():
            if value is not tensors[name]:
                tensors[name].copy_(value)
        return found

    def _by_layers(
        self, layers: list[Layer], tensors: Mapping[str, Tensor], batch: Any, count: int
    ) -> Tensor:
        if count % _LANES:
            return torch.stack(
                [
                    self._alone({name: each[run] for name, each in tensors.items()}, batch, run)
                    for run in range(len(batch[0]))
                ]
            )
        values, targets = batch
        for layer in layers:
            values = layer(tensors, values)
        # The default loss treats each example by itself, so those of all runs are one batch.
        runs = len(values)
        total, weight = self._sums(values.flatten(0, 1), targets.flatten(0, 1), runs * count)
        return _means(total.view(runs, count), weight.view(runs, count))

    def _alone(self, tensors: Mapping[str, Tensor], batch: Any, run: int) -> Tensor:
        """The loss of one run, by the operations of one run."""
        outputs, targets = (part[run].clone() for part in batch)  # aligned as a batch alone
        for name, tensor in tensors.items():
            for holder, key in self._places[name]:
                holder[key] = tensor
        return _means(*self._sums(self._model(outputs), targets, len(targets)))

    def _sums(self, outputs: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
        value = self._task.loss(outputs, (outputs, targets))
        return sums_and_weights(value, count, f"{self._task.name}: loss")

    def _mean_loss(
        self, tensors: dict[str, Tensor], batch: Any, count: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one run, and the buffers after the pass."""
        for name, tensor in tensors.items():
            for holder, key in self._places[name]:
                holder[key] = tensor
        outputs = self._task.predict(self._model, batch)
        value = self._task.loss(outputs, batch)
        total, weight = sums_and_weights(value, count, f"{self._task.name}: loss")
        after = {name: self._value(name) for name in self._updated}
        return total.sum() / weight.sum(), after

    def _value(self, name: str) -> Tensor:
        holder, key = self._places[name][0]
        tensor: Tensor = holder[key]
        return tensor


def _means(total: Tensor, weight: Tensor) -> Tensor:
    means: Tensor = total.sum(-1) / weight.sum(-1)
    return means


def _places(model: nn.Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Where modules hold each parameter and buffer, also those that share one."""
    holders: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for holder in (module._parameters, module._buffers):
            for key, tensor in holder.items():
                holders.setdefault(id(tensor), []).append((holder, key))
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: holders[id(tensor)] for name, tensor in named}


def _layers(model: nn.Module) -> list[Layer] | None:
    """The layers of a sequence, each for a stack of runs; None for any other network."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    found: list[Layer] = []
    for module in _in_sequence(model):
        if any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)):
            return None
        if type(module) is nn.Linear and module.bias is not None:
            found.append(_linear(names[id(module.weight)], names[id(module.bias)]))
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            found.append(lambda _, values: values.flatten(2))
        elif type(module) in _EXACT:
            found.append(_at_once(module))
        elif type(module) in _ROUNDED:
            found.append(_run_by_run(module))
        elif type(module) is not nn.Sequential:
            return None
    return found


def _in_sequence(model: nn.Module) -> list[nn.Module]:
    if type(model) is not nn.Sequential:
        return [model]
    return [model, *(each for part in model for each in _in_sequence(part))]


def _at_once(module: nn.Module) -> Layer:
    return lambda _, values: module(values)


def _run_by_run(module: nn.Module) -> Layer:
    return lambda _, values: torch.stack([module(each) for each in values])


def _linear(weight: str, bias: str) -> Layer:
    def layer(tensors: Mapping[str, Tensor], values: Tensor) -> Tensor:
        found: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            values, tensors[weight], tensors[bias]
        )
        return found

    return layer


class _Linear(torch.autograd.Function):
    """A linear layer of each run, by the products of which torch makes that of a single one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """(runs, N, in), (runs, out, in), (runs, out) → (runs, N, out)."""
        ctx.save_for_backward(values, weights)
        return _same_bits(_stacked_linear, _linear_one_by_one, values, weights, biases)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """The gradients of the three arguments."""
        (gradient,), (values, weights) = gradients, ctx.saved_tensors
        by_values = _products(gradient, weights) if ctx.needs_input_grad[0] else None
        return by_values, _products(gradient.transpose(1, 2), values), gradient.sum(1)


def _products(left: Tensor, right: Tensor) -> Tensor:
    return _same_bits(torch.bmm, _products_one_by_one, left, right)


def _stacked_linear(values: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    return torch.baddbmm(biases.unsqueeze(1), values, weights.transpose(1, 2))


def _linear_one_by_one(*stacks: Tensor) -> Tensor:
    return torch.stack([nn.functional.linear(*each) for each in zip(*stacks, strict=True)])


def _products_one_by_one(*stacks: Tensor) -> Tensor:
    return torch.stack([torch.mm(*each) for each in zip(*stacks, strict=True)])


def _same_bits(
    together: Callable[..., Tensor], one_by_one: Callable[..., Tensor], *stacks: Tensor
) -> Tensor:
    """A product by `together` where it rounds as `one_by_one` does, else by that one."""
    layout = tuple((each.shape, each.stride(), each.dtype) for each in stacks)
    way = together if _rounds_alike(together, one_by_one, layout) else one_by_one
    return way(*stacks)


@functools.lru_cache(maxsize=1024)
def _rounds_alike(
    together: Callable[..., Tensor],
    one_by_one: Callable[..., Tensor],
    layout: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...],
) -> bool:
    """Whether two ways give the same bits for random numbers in this layout.

    A BLAS chooses its kernel, and so the order of its sums, by the layout and not by the numbers.
    """
    generator = torch.Generator().manual_seed(0)
    stacks = []
    for shape, stride, dtype in layout:
        room = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        numbers = torch.randn(room, generator=generator, dtype=dtype)
        stacks.append(numbers.as_strided(shape, stride))
    return torch.equal(together(*stacks), one_by_one(*stacks))
