"""Optimizers over the weights of several runs: a row (n,) for each, with its own hyperparameters.

Each computes what torch's own does, in the same order of operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpcli.training.train_settings import TrainSettings

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
        self._columns: dict[str, tuple[Any, ...]] = {}
        self._scratch: Tensor | None = None
        self.memory: dict[str, Tensor] = {}
        self.taken = 0

    def step(self, weights: Tensor, gradient: Tensor, rates: Sequence[float]) -> None:
        """Change `weights` (runs, n) in place; the gradient may be overwritten."""
        self.taken += 1
        self._update(self, weights, gradient, rates)

    def keep(self, rows: Tensor) -> None:
        """Go on with the hyperparameters of these rows only; the memory is the caller's."""
        self._values = [self._values[row] for row in rows.tolist()]
        self._columns.clear()

    def remembered(self, name: str, like: Tensor) -> Tensor:
        """A tensor of the memory, of zeros before the first step."""
        if name not in self.memory:
            self.memory[name] = torch.zeros_like(like)
        return self.memory[name]

    def scratch(self, like: Tensor) -> Tensor:
        """Memory for a step, whose numbers are of no use after it."""
        if self._scratch is None or self._scratch.shape != like.shape:
            self._scratch = torch.empty_like(like)
        return self._scratch

    def each(self, name: str) -> tuple[Any, ...]:
        """A hyperparameter of each run."""
        if name not in self._columns:
            self._columns[name] = tuple(values[name] for values in self._values)
        return self._columns[name]


@functools.lru_cache(maxsize=256)
def column(values: tuple[float, ...], dtype: torch.dtype) -> Tensor | float:
    """A factor for each row of a matrix: a number where all are the same."""
    if all(value == values[0] for value in values):
        return float(values[0])
    return torch.tensor(values, dtype=dtype).unsqueeze(1)


def _add(to: Tensor, what: Tensor, factors: Tensor | float) -> Tensor:
    """Add a multiple of `what` in place."""
    if isinstance(factors, float):
        return to.add_(what, alpha=factors) if factors else to
    return to.addcmul_(what, factors)


def _sgd(self: StackedOptimizer, weights: Tensor, gradient: Tensor, rates: Any) -> None:
    kind = weights.dtype
    _add(gradient, weights, column(self.each("weight_decay"), kind))
    momentum = self.each("momentum")
    if any(momentum):
        first = "momentum" not in self.memory
        memory = self.remembered("momentum", weights)
        factors = column(momentum, kind)
        # The first gradient is taken without dampening, and all where there is no momentum.
        pairs = zip(momentum, self.each("dampening"), strict=True)
        shares = tuple(1 - damping if held and not first else 1.0 for held, damping in pairs)
        _add(memory.mul_(factors), gradient, column(shares, kind))
        if any(self.each("nesterov")):
            _add(gradient, memory, factors)
        else:
            gradient = memory
    _add(weights, gradient, column(tuple(-rate for rate in rates), kind))


def _adam(
    self: StackedOptimizer, weights: Tensor, gradient: Tensor, rates: Any, decoupled: bool = False
) -> None:
    decay, kind = self.each("weight_decay"), weights.dtype
    if decoupled and any(decay):
        kept = (1 - rate * each for rate, each in zip(rates, decay, strict=True))
        weights.mul_(column(tuple(kept), kind))
    elif any(decay):
        _add(gradient, weights, column(decay, kind))
    mean, square = (self.remembered(name, weights) for name in ("exp_avg", "exp_avg_sq"))
    scratch = self.scratch(weights)
    betas = self.each("betas")
    first, second = ([each[i] for each in betas] for i in (0, 1))
    mean.lerp_(gradient, column(tuple(1 - beta for beta in first), kind))
    square.mul_(column(tuple(second), kind))
    shares = column(tuple(1 - beta for beta in second), kind)
    if isinstance(shares, float):
        square.addcmul_(gradient, gradient, value=shares)
    else:
        square.addcmul_(torch.mul(gradient, shares, out=scratch), gradient)
    roots = tuple((1 - beta**self.taken) ** 0.5 for beta in second)
    below = _root(square, min(self.each("eps")) * min(roots), scratch).div_(column(roots, kind))
    below.add_(column(self.each("eps"), kind))
    steps = (-rate / (1 - beta**self.taken) for rate, beta in zip(rates, first, strict=True))
    factors = column(tuple(steps), kind)
    if isinstance(factors, float):
        weights.addcdiv_(mean, below, value=factors)
    else:
        weights.addcdiv_(torch.mul(mean, factors, out=gradient), below)


def _root(square: Tensor, least: float, out: Tensor) -> Tensor:
    """The square root, exact to the last bit where that matters in a sum with `least` or more.

    Torch's root of a zero takes ten times as long as that of another number, and a network has
    many of them, such as the weights of pixels that are always black.
    """
    kind = torch.finfo(square.dtype)
    if kind.tiny**0.5 < least * kind.eps / 4:  # a root below this changes no bit of the sum
        return torch.clamp_min(square, kind.tiny, out=out).sqrt_()
    return torch.sqrt(square, out=out)


def _adamw(self: StackedOptimizer, weights: Tensor, gradient: Tensor, rates: Any) -> None:
    _adam(self, weights, gradient, rates, decoupled=True)


_KINDS: Mapping[str, tuple[Update, Values]] = {
    "sgd": (_sgd, {"dampening": 0.0, "nesterov": False}),
    "adam": (_adam, {"eps": 1e-8}),
    "adamw": (_adamw, {"eps": 1e-8}),
}

# The options of each that may be given, with those in which a stack's runs must not differ.
OPTIONS: Mapping[str, tuple[str, ...]] = {name: tuple(d) for name, (_, d) in _KINDS.items()}
