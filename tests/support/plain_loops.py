"""Optimizers written from their formulas: full-batch least squares in float64, without autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sharpcli.tasks import Task, defaults
from sharpcli.training import order, train_settings

Array = NDArray[np.float64]
Gradient = Callable[[Array], Array]

INPUTS = np.random.default_rng(3).normal(size=(24, 4))
TARGETS = INPUTS @ np.array([1.0, -2.0, 0.5, 0.0]) + np.random.default_rng(4).normal(size=24)
START = np.array([0.3, -0.1, 0.8, 0.2])


def gradient(w: Array) -> Array:
    """Of the mean of (x·w − y)²/2 over the examples."""
    found: Array = INPUTS.T @ (INPUTS @ w - TARGETS) / len(TARGETS)
    return found


def task() -> Task:
    """The same problem for sharp."""

    def model() -> nn.Module:
        linear = nn.Linear(4, 1, bias=False)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(START)[None])
        return linear

    def loss(outputs: torch.Tensor, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return (outputs[:, 0] - batch[1]).square() / 2

    data = torch.tensor(INPUTS), torch.tensor(TARGETS)
    return Task("plain", {}, "", model, lambda _: data, defaults.predict, loss)


def sgd(
    rates: Sequence[float],
    momentum: float = 0.0,
    decay: float = 0.0,
    clip: float = math.inf,
    average: float = 0.0,
    *,
    nesterov: bool = False,
    swa: int | None = None,
) -> Array:
    """v ← μv + g + λw, w ← w − ηv; an average a ← Da + (1 − D)w of the weights.

    With `swa` it is their mean after each step from this one on.

    With Nesterov's momentum, as torch has it, w ← w − η(g + λw + μv).
    """
    w, v, a, after = START.copy(), np.zeros(4), START.copy(), list[Array]()
    for rate in rates:
        g = gradient(w)
        g = g * min(1.0, clip / (np.linalg.norm(g) + 1e-6))  # as torch clips
        g = g + decay * w
        v = momentum * v + g
        w = w - rate * (g + momentum * v if nesterov else v)
        a = average * a + (1 - average) * w
        after.append(w)
    return a if swa is None else np.mean(after[swa - 1 :], axis=0)


def adam(
    rates: Sequence[float],
    betas: tuple[float, float] = (0.9, 0.999),
    decay: float = 0.0,
    *,
    decoupled: bool = False,
    eps: float = 1e-8,
    amsgrad: bool = False,
    slope: Gradient = gradient,
) -> Array:
    """Kingma and Ba's Algorithm 1; with decoupled decay Loshchilov and Hutter's Algorithm 2.

    With `amsgrad` Reddi et al.'s largest second moment.
    """
    w, m, v, largest = START.copy(), np.zeros(4), np.zeros(4), np.zeros(4)
    for t, rate in enumerate(rates, start=1):
        g = slope(w) + (0.0 if decoupled else decay) * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        largest = np.maximum(largest, v) if amsgrad else v
        corrected = (m / (1 - betas[0] ** t)) / (np.sqrt(largest / (1 - betas[1] ** t)) + eps)
        w = w - rate * (corrected + (decay if decoupled else 0.0) * w)
    return w


def ademamix(
    rates: Sequence[float],
    betas: tuple[float, float, float],
    alpha: float,
    decay: float,
    over: int | None = None,
    eps: float = 1e-8,
) -> Array:
    """Pagliardini et al.'s Algorithm 1, with α and β3 growing `over` so many steps."""
    w, m1, m2, v = START.copy(), np.zeros(4), np.zeros(4), np.zeros(4)

    def half_life(beta: float) -> float:
        return math.log(0.5) / math.log(beta) - 1

    for t, rate in enumerate(rates, start=1):
        share = 1.0 if over is None else min(1.0, t / over)
        h = (1 - share) * half_life(betas[0]) + share * half_life(betas[2])
        beta3 = min(0.5 ** (1 / (h + 1)), betas[2])
        g = gradient(w)
        m1 = betas[0] * m1 + (1 - betas[0]) * g
        m2 = beta3 * m2 + (1 - beta3) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        first = m1 / (1 - betas[0] ** t) + share * alpha * m2
        w = w - rate * (first / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + decay * w)
    return w


def sam(
    rates: Sequence[float],
    rho: float,
    momentum: float = 0.0,
    *,
    adaptive: bool = False,
    eta: float = 0.0,
    clip: float = math.inf,
) -> Array:
    """Foret et al.'s SAM and Kwon et al.'s ASAM, on SGD with momentum."""
    w, v = START.copy(), np.zeros(4)
    slope = nearby(rho, adaptive=adaptive, eta=eta)
    for rate in rates:
        there = slope(w)
        v = momentum * v + there * min(1.0, clip / (np.linalg.norm(there) + 1e-6))
        w = w - rate * v
    return w


def nearby(rho: float, *, adaptive: bool = False, eta: float = 0.0) -> Gradient:
    """The gradient at the worse weights that SAM and ASAM take it at."""

    def slope(w: Array) -> Array:
        g, scale = gradient(w), np.abs(w) + eta if adaptive else np.ones(4)
        return gradient(w + rho * scale**2 * g / np.linalg.norm(scale * g))

    return slope


@dataclass(frozen=True)
class Policy:
    """A schedule that any function gives."""

    at: Callable[[int], float]
    spec: str = "any"
    observes: bool = False


def with_schedule(monkeypatch: Any, at: Callable[[int], float]) -> None:
    """Let every schedule be `at`."""
    for module in (order, train_settings):
        monkeypatch.setattr(module, "parse_schedule", lambda spec: Policy(at))
