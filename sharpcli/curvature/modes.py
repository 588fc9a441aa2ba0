"""The fastest order of differentiation for Hessian products, chosen by timing."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.curvature.graphs import Linearize, Product, graph_budget, graph_cost
from sharpcli.curvature.hessian_products import (
    double_backward,
    forward_over_reverse,
    reverse_over_forward,
)
from sharpcli.errors import SharpError
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.rows import Batch
from sharpcli.runtime.memory import is_out_of_memory

__all__ = ["MODES", "Modes", "choose_modes"]

MODES: dict[str, Linearize] = {
    "double-backward": double_backward,
    "forward-over-reverse": forward_over_reverse,
    "reverse-over-forward": reverse_over_forward,
}

# Share of the data for timing: a dozen gradients of it cost two of all.
_TIMED_SHARE = 8
# A mode replaces the default only if it takes less than this share of its time: two timings of the
# same mode differ by less.
_CLEARLY = 0.9
# The usual number of columns in a product, which rebuilt graphs serve together.
_COLUMNS = 2
# Modes that keep nothing repeat a gradient's work in every product and add its derivative: 2.6
# gradients was the least seen. A product on kept graphs that takes fewer cannot be beaten.
_UNBEATEN = 2.5
# A mode's first product includes PyTorch's setup, up to half a second.
_FIRST_SECONDS = 1.0
# Modes differ by 1e-5 from float32 rounding; a wrong derivative shows as 1e-2 or more.
_AGREE = 1e-3


@dataclass(frozen=True)
class Modes:
    """The names of the modes for microbatches with kept graphs, and for the others."""

    kept: str
    passing: str


_chosen: weakref.WeakKeyDictionary[Network, Modes] = weakref.WeakKeyDictionary()


def choose_modes(objective: Objective, theta: Tensor, graphs: float | None = None) -> Modes:
    """Choose the fastest modes for the model: timed once for a network, then remembered.

    Only a mode that agrees with double backward is chosen. A model without second derivatives is
    refused.

    Cost: two gradients or fewer.
    """
    network = objective.network
    graphs = graph_budget(theta.device, None) if graphs is None else graphs
    if network not in _chosen:
        _chosen[network] = objective.within_memory(lambda: _timed(objective, theta, graphs))
    return _chosen[network]


def _timed(objective: Objective, theta: Tensor, graphs: float) -> Modes:
    rows = objective.rows
    count = min(objective.batch_size, -(-rows.count // _TIMED_SHARE))
    few = rows.head(count)
    trial = _Trial(objective, theta, few.batch, few.count)
    build, double = trial.prepare(double_backward)
    first, true = trial.apply(double)
    product = min(first, trial.apply(double)[0])
    del double
    whole = graph_cost(objective, trial.leaves, double_backward).of(rows.count)
    everything = whole <= graphs
    if everything and product < _UNBEATEN * build:
        return Modes("double-backward", "double-backward")
    limits = {"kept": product, "passing": build / _COLUMNS + product}
    best = {part: ("double-backward", _CLEARLY * limit) for part, limit in limits.items()}
    for name in ("forward-over-reverse", "reverse-over-forward"):
        try:
            _, mode = trial.prepare(MODES[name])
            first, found = trial.apply(mode)
        except (RuntimeError, SharpError) as error:
            # An operation lacks this derivative, or a model differentiates in its forward pass.
            if is_out_of_memory(error):
                raise
            continue
        if not float((found - true).norm()) <= _AGREE * float(true.norm()):
            continue
        if first > max(2 * limits["passing"], _FIRST_SECONDS):
            continue
        seconds = min(first, trial.apply(mode)[0])
        best = {part: min(it, (name, seconds), key=lambda it: it[1]) for part, it in best.items()}
    return Modes(best["kept"][0], best["passing"][0])


class _Trial:
    """A microbatch on which modes are timed, with a random vector."""

    def __init__(self, objective: Objective, theta: Tensor, batch: Batch, count: int) -> None:
        self._objective, self._theta = objective, theta
        self._batch, self._count = batch, count
        self.leaves = objective.leaves(theta)
        generator = torch.Generator().manual_seed(0)
        self._vector = torch.randn(objective.size, generator=generator).to(theta)

    def prepare(self, mode: Linearize) -> tuple[float, Product]:
        """Build the microbatch's product; returns the seconds that it took and the product."""
        started = self._now()
        made = mode(self._objective, self.leaves, self._batch, self._count)
        return self._now() - started, made

    def apply(self, product: Product) -> tuple[float, Tensor]:
        """Apply a product to the vector; returns the seconds that it took and the result (n,)."""
        network = self._objective.network
        result = torch.zeros_like(self._theta)
        started = self._now()
        product(network.unflatten(self._vector), network.unflatten(result))
        return self._now() - started, result

    def _now(self) -> float:
        if self._theta.device.type == "cuda":
            torch.cuda.synchronize(self._theta.device)
        return time.perf_counter()
