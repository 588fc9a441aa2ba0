"""An objective's curvature as an operator: microbatch by microbatch, what fits is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from ..data import Batch
from ..errors import SharpError
from ..memory import available_memory
from ..objective import Objective

__all__ = [
    "Curvature",
    "Linearize",
    "Product",
    "graph_budget",
    "graph_bytes",
    "refusing_missing_derivatives",
]

# Adds the product of a microbatch's (unnormalised) matrix with a vector to a result, both as a
# list of the parameters' shapes, in place. Gives the microbatch's weight.
Product = Callable[[list[Tensor], list[Tensor]], Tensor]
# Makes a microbatch's product at the parameters given as leaves.
Linearize = Callable[[Objective, list[Tensor], Batch, int], Product]

# A gradient's graph, ready for a second derivative, holds about this many times the bytes that the
# forward pass saves (activations, their cotangents, and the temporaries of both).
_GRAPH_FACTOR = 4
# Share of the free memory that kept graphs may take: bases and temporaries need the rest.
_GRAPH_SHARE = 0.5


class Curvature:
    """Σ over microbatches of a curvature matrix at θ, by the weight of all examples.

    `kept` makes a microbatch's product with its graphs, which are kept while `memory` bytes
    (default: half of what is free) allow. `passing` makes the products of the microbatches that do
    not fit; they are made for every call of `@` anew, once for all its columns. Call `release` to
    free the graphs.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        kept: Linearize,
        passing: Linearize | None = None,
        *,
        memory: int | None = None,
    ) -> None:
        self.objective, self._theta = objective, theta
        self.size = objective.size
        self.dtype, self.device = theta.dtype, theta.device
        self.products = 0
        self.error = 0.0  # but for rounding, products are exact
        self._keep, self._pass = kept, passing or kept
        self._budget = graph_budget(theta.device, memory)
        self._leaves = objective.leaves(theta)
        self._kept: list[Product | None] = []
        self._kept_batch_size = 0
        self._weight: Tensor | None = None

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Hv for v (n,), or HV for V (n, k).

        Raises `SharpError` naming what is first not finite: the loss, its gradient or a product.
        """
        rows = vectors.reshape(self.size, -1).T.contiguous()
        self.products += len(rows)
        out = self.objective.within_memory(lambda: self._apply(rows))
        if not bool(torch.isfinite(out).all()):
            self._refuse(out)
        return out.T.reshape(vectors.shape)

    def release(self) -> None:
        """Free the kept graphs."""
        self._kept = []

    def _refuse(self, products: Tensor) -> NoReturn:
        value, gradient = self.objective.gradient(self._theta)
        self.objective.check_finite(value, self._theta, gradient)
        index = int((~torch.isfinite(products)).any(0).nonzero()[0])
        raise SharpError(
            "the second derivative is not finite although the gradient is, first in "
            f"'{self.objective.network.locate(index)}'",
            "the loss has a singular point here (a power below 2 at 0); move it off with a small "
            "constant, or leave the hessian and trace out with -m",
        )

    def _apply(self, rows: Tensor) -> Tensor:
        network, objective = self.objective.network, self.objective
        out = torch.zeros_like(rows)
        if self._kept_batch_size != objective.batch_size:  # memory ran out: other batches now
            self._kept, self._kept_batch_size = [], objective.batch_size
        first = not self._kept
        spent = 0.0
        weights = []
        for index, (batch, count) in enumerate(objective.batches()):
            product = None if first else self._kept[index]
            if product is None:
                spent += count * graph_bytes(objective)
                fits = first and spent <= self._budget
                make = self._keep if fits else self._pass
                product = make(objective, self._leaves, batch, count)
                if first:
                    self._kept.append(product if fits else None)
            for vector, result in zip(rows, out, strict=True):
                weight = product(network.unflatten(vector), network.unflatten(result))
            weights.append(weight)
            del product
        if first or self._weight is None:
            self._weight = self.objective.add_up(torch.stack(weights).sum())
        self.objective.add_up(out)
        return out.div_(self._weight.to(out.dtype))


def graph_bytes(objective: Objective) -> float:
    """Bytes that the graph of one example's gradient takes."""
    return _GRAPH_FACTOR * objective.saved_bytes


def graph_budget(device: torch.device, memory: int | None) -> float:
    """Bytes that kept graphs may take on a device."""
    return _GRAPH_SHARE * available_memory(device) if memory is None else memory


def refusing_missing_derivatives(work: Callable[[], None]) -> None:
    """Run `work`; raises `SharpError` where an operation of the model lacks a derivative."""
    try:
        work()
    except (RuntimeError, NotImplementedError) as error:
        said = str(error)
        if "derivative" not in said and "forward AD" not in said and "jvp" not in said:
            raise
        raise SharpError(
            f"the model has no second derivative: {said.splitlines()[0]}",
            "take --hvp finite-difference, which needs gradients only, leave the hessian and trace "
            "out with -m, or replace the operation that is named",
        ) from error
