"""Other ways to the maximum of ε-sharpness: SciPy's L-BFGS-B, and ascents from random starts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpcli.objective.objective import Objective


@dataclass(frozen=True)
class Ascent:
    """The largest loss found, the gradients it took, and the seconds inside and outside them."""

    loss: float
    evaluations: int
    seconds: float = math.nan
    inside: float = math.nan

    def sharpness(self, start: float) -> float:
        """Keskar's φ."""
        return 100 * (self.loss - start) / (1 + start)


class Box:
    """L over the box |z| ≤ bound = ε(|θ| + 1) around θ, by one gradient at a time."""

    def __init__(self, objective: Objective, theta: Tensor, epsilon: float) -> None:
        self.objective, self.theta = objective, theta
        self.bound = epsilon * (theta.abs() + 1)
        self.start = objective.loss(theta)
        self.evaluations, self.inside, self.best = 0, 0.0, self.start

    def at(self, u: Tensor) -> tuple[float, Tensor]:
        """Loss and its gradient at θ + bound·u, by z."""
        started = time.perf_counter()
        loss, gradient = self.objective.gradient(self.theta + self.bound * u)
        self.inside += time.perf_counter() - started
        self.evaluations += 1
        if math.isfinite(loss):
            self.best = max(self.best, loss)
        return loss, gradient

    def ascent(self, run: Callable[[], object]) -> Ascent:
        """The best that `run` meets."""
        self.evaluations, self.inside, self.best = 0, 0.0, self.start
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
        return Ascent(self.best, self.evaluations, seconds, self.inside)


def scipy_scaled(
    box: Box, kind: str, *, iterations: int = 10, start: Tensor | None = None
) -> Ascent:
    """SciPy's L-BFGS-B on u ∈ [−1, 1]ⁿ with −L/L₀ (`linear`) or −log L (`log`), memory 10."""
    from scipy.optimize import Bounds, minimize

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = box.at(torch.from_numpy(x).to(box.theta))
        scale = -1 / (loss if kind == "log" else box.start)
        value = -math.log(loss) if kind == "log" else loss * scale
        return value, (gradient * box.bound).double().mul_(scale).cpu().numpy()

    first = np.zeros(len(box.theta)) if start is None else start.double().cpu().numpy()
    options = {"maxiter": iterations, "maxcor": 10}

    def solve() -> None:
        minimize(
            function, first, jac=True, method="L-BFGS-B", bounds=Bounds(-1, 1), options=options
        )

    return box.ascent(solve)


def scipy_raw(box: Box, *, iterations: int = 10) -> Ascent:
    """SciPy's L-BFGS-B on −L over |z| ≤ bound as it is written, default tolerances, memory 10."""
    from scipy.optimize import Bounds, minimize

    limit = box.bound.double().cpu().numpy()

    def function(z: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = box.at(torch.from_numpy(z).to(box.theta) / box.bound)
        return -loss, -gradient.double().cpu().numpy()

    def solve() -> None:
        minimize(
            function,
            np.zeros_like(limit),
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(-limit, limit),
            options={"maxiter": iterations, "maxcor": 10},
        )

    return box.ascent(solve)


def random_starts(box: Box, method: str, *, restarts: int = 20, seed: int = 0) -> Ascent:
    """The best of ascents from uniform random points of the box.

    `corner`: twelve steps, each to the corner that the gradient's signs name. `gradient`: twelve
    projected steps of half the box's width along the gradient in its maximum norm, shrinking.
    `lbfgsb`: ten iterations of SciPy's L-BFGS-B on −log L.
    """
    generator = torch.Generator().manual_seed(seed)
    evaluations, best = 0, box.start
    for _ in range(restarts):
        u = 2 * torch.rand(len(box.theta), generator=generator) - 1
        u = u.to(box.theta)
        if method == "lbfgsb":
            found = scipy_scaled(box, "log", start=u)
        else:
            found = box.ascent(lambda u=u: _climb(box, u, method))
        evaluations += found.evaluations
        best = max(best, found.loss)
    return Ascent(best, evaluations)


def _climb(box: Box, u: Tensor, method: str, steps: int = 12) -> None:
    for step in range(steps):
        _, gradient = box.at(u)
        if method == "corner":
            u = gradient.sign()
        else:
            slope = gradient * box.bound
            # A typical entry is far below the largest: the median moves half way to its wall.
            typical = float(slope.abs().median()) or float(slope.abs().max()) or 1.0
            u = (u + slope / typical / (1 + step / 4)).clamp(-1, 1)
    box.at(u)
