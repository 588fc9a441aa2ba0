"""Gradients of a stack of plain networks: linear layers, activations, the default loss.

Forward and backward pass are written out, because a graph takes longer than the arithmetic of
networks so small. Each operation rounds as it does in a network by itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpcli.objective.rows import Rows
from sharpcli.tasks import Task, defaults
from sharpcli.training.same_bits import LANES, operation

__all__ = ["LayeredPass", "Linear", "layers_of"]

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer, by the names of its tensors."""

    weight: str
    bias: str


# The gradient of each activation, from that of its result and its result, or its argument.
_BY_RESULT: Mapping[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda g, y: _aten.threshold_backward(g, y, 0),
    nn.Tanh: _aten.tanh_backward,
    nn.Sigmoid: _aten.sigmoid_backward,
}
_BY_ARGUMENT: Mapping[type[nn.Module], Callable[[Any, Tensor, Tensor], Tensor]] = {
    nn.LeakyReLU: lambda m, g, x: _aten.leaky_relu_backward(g, x, m.negative_slope, False),
    nn.GELU: lambda m, g, x: _aten.gelu_backward(g, x, approximate=m.approximate),
    nn.SiLU: lambda _, g, x: _aten.silu_backward(g, x),
    nn.ELU: lambda m, g, x: _aten.elu_backward(g, m.alpha, 1, 1, False, x),
    nn.Softplus: lambda m, g, x: _aten.softplus_backward(g, x, m.beta, m.threshold),
}

Layer = Linear | nn.Module
Work = Callable[[], object]


def layers_of(model: nn.Module, task: Task, rows: Rows | None = None) -> list[Layer] | None:
    """The layers of a plain network with the default loss; None for any other.

    With `rows`, the data must be a matrix of inputs and a class for each row, too.
    """
    if not (defaults.is_default(task.predict) and defaults.is_default(task.loss)):
        return None
    if rows is not None and not (isinstance(rows.batch, tuple | list) and len(rows.batch) == 2):
        return None
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    found: list[Layer] = []
    flat = rows is None or rows.batch[0].ndim == 2
    for module in _in_sequence(model):
        if any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)):
            return None
        if type(module) is nn.Linear and module.bias is not None:
            found.append(Linear(names[id(module.weight)], names[id(module.bias)]))
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            flat |= not found  # later ones change nothing
        elif type(module) in _BY_RESULT or type(module) in _BY_ARGUMENT:
            found.append(module)
        elif type(module) not in (nn.Sequential, nn.Identity):
            return None
    linear = [each for each in found if isinstance(each, Linear)]
    tensors = [name for each in linear for name in (each.weight, each.bias)]
    # A tensor that two layers share has the sum of two gradients, and a fixed one has none.
    trained = sorted(name for name, each in model.named_parameters() if each.requires_grad)
    if not flat or sorted(tensors) != trained or not found or found[-1] is not linear[-1]:
        return None
    return found if rows is None or _are_classes(rows.batch[1], model, linear[-1]) else None


def _are_classes(targets: Tensor, model: nn.Module, last: Linear) -> bool:
    """Whether each row has a class, and none is ignored."""
    count = len(dict(model.named_parameters())[last.weight])
    kind = targets.dtype
    if targets.ndim != 1 or kind.is_floating_point or kind.is_complex or kind is torch.bool:
        return False
    return bool(((targets >= 0) & (targets < count)).all())


def _in_sequence(model: nn.Module) -> list[nn.Module]:
    if type(model) is not nn.Sequential:
        return [model]
    return [model, *(each for part in model for each in _in_sequence(part))]


class LayeredPass:
    """Writes the gradients of all runs' mean losses to where they belong.

    Args:
        layers: of the network, as `layers_of` gives them.
        weights: the parameters by name, with the runs as their first axis.
        gradients: where the gradients go, likewise.
        rows: the training data.
    """

    by_layers = True

    def __init__(
        self,
        layers: Sequence[Layer],
        weights: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        rows: Rows,
    ) -> None:
        inputs, targets = rows.batch
        self._layers, self._weights, self._gradients = layers, weights, gradients
        self._inputs, self._targets = inputs.flatten(1).contiguous(), targets.long().contiguous()
        self._plans: dict[int, _Plan] = {}

    def gradients(self, chosen: Tensor) -> Tensor:
        """Take the gradients of each run on its examples `chosen` (runs, size).

        Returns:
            The loss of each example (runs, size), of which `mean_losses` makes those of the runs.
        """
        size = chosen.shape[1]
        if size not in self._plans:
            self._plans[size] = _Plan(
                size, self._layers, self._weights, self._gradients, self._inputs, self._targets
            )
        return self._plans[size].gradients(chosen)

    def mean_losses(self, losses: Tensor) -> Tensor:
        """The mean loss (…) of batches whose examples have the `losses` (…, size)."""
        return mean_losses(losses)


class _Plan:
    """All operations of a step with batches of one size, on memory of their own.

    Each run has room for a multiple of `LANES` examples, so that its numbers lie as they do alone.
    With smooth activations there is always some to spare: torch takes numbers without a gap as one
    row, and the last ones of a row, fewer than four vectors, by code that rounds in another way.
    """

    def __init__(
        self,
        size: int,
        layers: Sequence[Layer],
        weights: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> None:
        self._size, self._inputs, self._targets = size, inputs, targets
        self._runs = len(next(iter(weights.values())))
        smooth = any(not isinstance(each, Linear | nn.ReLU) for each in layers)
        self._room = -(-(size + smooth) // LANES) * LANES
        chosen = torch.zeros(self._runs, self._room, dtype=torch.int64)
        self._indices, self._used_chosen = chosen.view(-1), self._used(chosen)
        self._classes = torch.zeros_like(self._indices)
        self._class_column = self._classes.unsqueeze(1)
        self._values = self._memory(inputs.shape[1])
        self._flat_values = self._values.flatten(0, 1)
        self._forward: list[Work] = []
        backward: list[list[Work]] = []  # of each layer
        values = self._values
        gradient: Tensor | None = None  # by the layer's argument; none by the data
        of_result: Tensor | None
        before: Layer | None = None
        for layer in layers:
            if isinstance(layer, Linear):
                result = self._memory(weights[layer.weight].shape[1])
                of_result = torch.zeros_like(result)
                own = weights[layer.weight], weights[layer.bias]
                own_gradients = gradients[layer.weight], gradients[layer.bias]
                self._add_linear(values, result, own)
                backward.append(
                    self._backward_linear(values, of_result, own[0], own_gradients, gradient)
                )
            else:
                # The gradient of ReLU needs only its result, and nothing else needs a linear one's.
                in_place = type(layer) is nn.ReLU and isinstance(before, Linear)
                result = values if in_place else torch.zeros_like(values)
                of_result = gradient
                if in_place:
                    self._forward.append(functools.partial(torch.relu_, result))
                else:
                    self._add_activation(layer, values, result)
                backward.append(self._backward_activation(layer, values, result, gradient))
            before, values, gradient = layer, result, of_result
        self._backward = [each for operations in reversed(backward) for each in operations]
        self._add_loss(values, gradient)

    def gradients(self, chosen: Tensor) -> Tensor:
        """Take the gradients; the loss of each example."""
        self._used_chosen.copy_(chosen)
        torch.index_select(self._inputs, 0, self._indices, out=self._flat_values)
        torch.index_select(self._targets, 0, self._indices, out=self._classes)
        for each in self._forward:
            each()
        losses = self._losses.gather(1, self._class_column)
        self._of_losses.zero_().scatter_(1, self._class_column, -1 / self._size)
        for each in self._backward:
            each()
        return losses.view(self._runs, self._room)[:, : self._size].neg_()

    def _memory(self, width: int) -> Tensor:
        return torch.zeros(self._runs, self._room, width, dtype=self._inputs.dtype)

    def _used(self, stack: Tensor) -> Tensor:
        return stack[:, : self._size]

    def _add_linear(self, values: Tensor, result: Tensor, own: tuple[Tensor, Tensor]) -> None:
        stacks = self._used(values), *own
        self._forward.append(operation("linear", _linear, _one_linear, self._used(result), *stacks))

    def _backward_linear(
        self,
        values: Tensor,
        of_result: Tensor,
        weight: Tensor,
        own: tuple[Tensor, Tensor],
        of_values: Tensor | None,
    ) -> list[Work]:
        given, by_weight, by_bias = self._used(of_result), *own
        found = [
            operation(
                "by weight", _by_weight, _one_by_weight, by_weight, given, self._used(values)
            ),
            operation("by bias", _by_bias, _one_by_bias, by_bias, given),
        ]
        if of_values is not None:
            out = self._used(of_values)
            found.append(operation("by values", _by_values, torch.mm, out, given, weight))
        return found

    def _add_activation(self, layer: nn.Module, values: Tensor, result: Tensor) -> None:
        self._forward.append(
            operation(
                ("forward", _described(layer)),
                lambda out, x: lambda: out.copy_(layer(x)),
                layer,
                self._used(result),
                self._used(values),
            )
        )

    def _backward_activation(
        self, layer: nn.Module, values: Tensor, result: Tensor, gradient: Tensor | None
    ) -> list[Work]:
        if gradient is None:  # of the data
            return []
        if result is values:
            step = _aten.threshold_backward.grad_input
            return [functools.partial(step, gradient, result, 0, grad_input=gradient)]
        alone = _BY_RESULT.get(type(layer))
        by = values if alone is None else result
        if alone is None:
            alone = functools.partial(_BY_ARGUMENT[type(layer)], layer)
        return [
            operation(
                ("backward", _described(layer)),
                lambda out, *own: lambda: out.copy_(alone(*own)),
                alone,
                self._used(gradient),
                self._used(gradient),
                self._used(by),
            )
        ]

    def _add_loss(self, scores: Tensor, of_scores: Tensor | None) -> None:
        assert of_scores is not None, "the last layer is linear"
        flat = scores.flatten(0, 1)
        self._losses, self._of_losses = torch.zeros_like(flat), torch.zeros_like(flat)
        self._forward.append(
            functools.partial(torch._log_softmax, flat, 1, False, out=self._losses)
        )
        self._backward.insert(
            0,
            functools.partial(
                torch._log_softmax_backward_data,
                self._of_losses,
                self._losses,
                1,
                flat.dtype,
                out=of_scores.flatten(0, 1),
            ),
        )


def _described(layer: nn.Module) -> tuple[str, str]:
    return type(layer).__name__, repr(layer)


def _linear(out: Tensor, values: Tensor, weights: Tensor, biases: Tensor) -> Work:
    """(runs, N, in), (runs, out, in), (runs, out) → (runs, N, out)."""
    turned, added = weights.transpose(1, 2), biases.unsqueeze(1)
    return functools.partial(torch.baddbmm, added, values, turned, out=out)


def _one_linear(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(values, weight, bias)


def _by_weight(out: Tensor, gradients: Tensor, values: Tensor) -> Work:
    return functools.partial(torch.bmm, gradients.transpose(1, 2), values, out=out)


def _one_by_weight(gradient: Tensor, values: Tensor) -> Tensor:
    return torch.mm(gradient.t(), values)


def _by_bias(out: Tensor, gradients: Tensor) -> Work:
    return functools.partial(torch.sum, gradients, 1, out=out)


def _one_by_bias(gradient: Tensor) -> Tensor:
    return gradient.sum(0)


def _by_values(out: Tensor, gradients: Tensor, weights: Tensor) -> Work:
    return functools.partial(torch.bmm, gradients, weights, out=out)


_LEVELS = 8  # of partial sums in torch's nll_loss


def mean_losses(losses: Tensor) -> Tensor:
    """The means (…) of `losses` (…, size), added in the order in which torch's nll_loss adds them.

    Source: the cascade in torch's aten/src/ATen/native/LossNLL.cpp.
    """
    size = losses.shape[-1]
    power = max(4, math.ceil(math.log2(size)) // _LEVELS)
    partial = [torch.zeros(losses.shape[:-1], dtype=losses.dtype) for _ in range(_LEVELS)]
    for number, each in enumerate(losses.movedim(-1, 0).contiguous()):
        partial[0] += each
        for level in range(_LEVELS - 1):
            if number & (((1 << power) - 1) << (level * power)):
                break
            partial[level + 1] += partial[level]
            partial[level].zero_()
    return functools.reduce(torch.add, partial) / size
