"""Optimizers over the weights of several runs: a row (n,) for each, with its own hyperparameters.

Each computes what torch's own does, in the same order of operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpcli.training.optimizers import TrainSettings

__all__ = ["OPTIONS", "StackedOptimizer", "column"]

Values = Mapping[str, Any]
Update = Callable[["StackedOptimizer", Tensor, Tensor, Any], None]


class StackedOptimizer:
    """Takes the steps of several runs of one optimizer.

    `memory` has a tensor (runs, n) for each thing that the optimizer remembers, `taken` is the
    number of steps.
    """

    def __init__(self, settings: Sequence[TrainSettings]) -> None:
        self._update, defaults = _KINDS[settings[0].optimizer]
        self._values = [
            {**defaults, **each.kind.values(each), **each.optimizer_options} for each in settings
        ]
        self.memory: dict[str, Tensor] = {}
        self.taken = 0

    def step(self, weights: Tensor, gradient: Tensor, rates: Sequence[float]) -> None:
        """Change `weights` (runs, n) in place; the gradient may be overwritten."""
        self.taken += 1
        self._update(self, weights, gradient, rates)

    def keep(self, rows: Tensor) -> None:
        """Go on with the hyperparameters of these rows only; the memory is the caller's."""
        self._values = [self._values[row] for row in rows.tolist()]

    def remembered(self, name: str, like: Tensor) -> Tensor:
        """A tensor of the memory, of zeros before the first step."""
        if name not in self.memory:
            self.memory[name] = torch.zeros_like(like)
        return self.memory[name]

    def each(self, name: str) -> list[Any]:
        """A hyperparameter of each run."""
        return [values[name] for values in self._values]


def column(values: Sequence[float], like: Tensor) -> Tensor | float:
    """A factor for each row of `like`: a number where all are the same."""
    if all(value == values[0] for value in values):
        return float(values[0])
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


def _add(to: Tensor, what: Tensor, factors: Tensor | float) -> Tensor:
    """Add a multiple of `what` in place."""
    if isinstance(factors, float):
        return to.add_(what, alpha=factors) if factors else to
    return to.addcmul_(what, factors)


def _sgd(self: StackedOptimizer, weights: Tensor, gradient: Tensor, rates: Any) -> None:
    _add(gradient, weights, column(self.each("weight_decay"), weights))
    momentum = self.each("momentum")
    if any(momentum):
        first = "momentum" not in self.memory
        memory = self.remembered("momentum", weights)
        factors = column(momentum, weights)
        # The first gradient is taken without dampening, and all where there is no momentum.
        pairs = zip(momentum, self.each("dampening"), strict=True)
        shares = [1 - damping if held and not first else 1.0 for held, damping in pairs]
        _add(memory.mul_(factors), gradient, column(shares, weights))
        if any(self.each("nesterov")):
            _add(gradient, memory, factors)
        else:
            gradient = memory
    _add(weights, gradient, column([-rate for rate in rates], weights))


def _adam(
    self: StackedOptimizer, weights: Tensor, gradient: Tensor, rates: Any, decoupled: bool = False
) -> None:
    decay = self.each("weight_decay")
    if decoupled and any(decay):
        kept = [1 - rate * each for rate, each in zip(rates, decay, strict=True)]
        weights.mul_(column(kept, weights))
    elif any(decay):
        _add(gradient, weights, column(decay, weights))
    mean, square = (self.remembered(name, weights) for name in ("exp_avg", "exp_avg_sq"))
    betas = self.each("betas")
    first, second = ([each[i] for each in betas] for i in (0, 1))
    mean.lerp_(gradient, column([1 - beta for beta in first], weights))
    square.mul_(column(second, weights))
    shares = column([1 - beta for beta in second], weights)
    if isinstance(shares, float):
        square.addcmul_(gradient, gradient, value=shares)
    else:
        square.addcmul_(gradient * shares, gradient)
    roots = [(1 - beta**self.taken) ** 0.5 for beta in second]
    below = square.sqrt().div_(column(roots, weights)).add_(column(self.each("eps"), weights))
    steps = [-rate / (1 - beta**self.taken) for rate, beta in zip(rates, first, strict=True)]
    factors = column(steps, weights)
    if isinstance(factors, float):
        weights.addcdiv_(mean, below, value=factors)
    else:
        weights.addcdiv_(mean * factors, below)


def _adamw(self: StackedOptimizer, weights: Tensor, gradient: Tensor, rates: Any) -> None:
    _adam(self, weights, gradient, rates, decoupled=True)


_KINDS: Mapping[str, tuple[Update, Values]] = {
    "sgd": (_sgd, {"dampening": 0.0, "nesterov": False}),
    "adam": (_adam, {"eps": 1e-8}),
    "adamw": (_adamw, {"eps": 1e-8}),
}

# The options of each that may be given, with those in which a stack's runs must not differ.
OPTIONS: Mapping[str, tuple[str, ...]] = {name: tuple(d) for name, (_, d) in _KINDS.items()}
