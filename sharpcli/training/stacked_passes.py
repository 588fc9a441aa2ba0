"""The losses of a batch for each run of a stack: one pass of all networks, whose weights differ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.objective.losses import sums_and_weights
from sharpcli.tasks import Task, defaults

__all__ = ["StackedPass"]

# Layers without tensors that treat each number by itself: a stack of runs passes them as it is.
_BY_NUMBER = (nn.Identity, nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU, nn.ELU, nn.LeakyReLU)

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
        values, targets = batch
        runs = len(values)
        for layer in layers:
            values = layer(tensors, values)
        # The default loss treats each example by itself, so those of all runs are one batch.
        flat = values.flatten(0, 1), targets.flatten(0, 1)
        value = self._task.loss(flat[0], flat)
        total, weight = sums_and_weights(value, runs * count, f"{self._task.name}: loss")
        means: Tensor = total.view(runs, count).sum(1) / weight.view(runs, count).sum(1)
        return means

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
        elif type(module) in _BY_NUMBER:
            found.append(_by_number(module))
        elif type(module) is not nn.Sequential:
            return None
    return found


def _in_sequence(model: nn.Module) -> list[nn.Module]:
    if type(model) is not nn.Sequential:
        return [model]
    return [model, *(each for part in model for each in _in_sequence(part))]


def _by_number(module: nn.Module) -> Layer:
    return lambda _, values: module(values)


def _linear(weight: str, bias: str) -> Layer:
    def layer(tensors: Mapping[str, Tensor], values: Tensor) -> Tensor:
        if values.shape[1] == 1:  # a single example takes another kernel than several
            triples = zip(values, tensors[weight], tensors[bias], strict=True)
            return torch.stack([nn.functional.linear(*each) for each in triples])
        found: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            values, tensors[weight], tensors[bias]
        )
        return found

    return layer


class _Linear(torch.autograd.Function):
    """A linear layer of each run, by the products of which torch makes that of a single one.

    The products have the factors in the same order, so that a BLAS that rounds a product in a stack
    as it does alone gives the same bits.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """(runs, N, in), (runs, out, in), (runs, out) → (runs, N, out)."""
        ctx.save_for_backward(values, weights)
        return torch.baddbmm(biases.unsqueeze(1), values, weights.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """The gradients of the three arguments."""
        (gradient,), (values, weights) = gradients, ctx.saved_tensors
        by_values = torch.bmm(gradient, weights) if ctx.needs_input_grad[0] else None
        return by_values, torch.bmm(gradient.transpose(1, 2), values), gradient.sum(1)
