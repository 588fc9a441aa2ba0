"""An objective's curvature as an operator that keeps the graphs of the microbatches that fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from sharpcli.curvature.graphs import GraphCost, Linearize, Product, graph_budget, graph_cost
from sharpcli.errors import SharpError, setting
from sharpcli.objective.checks import check_finite
from sharpcli.objective.objective import Objective
from sharpcli.runtime.memory import is_out_of_memory

__all__ = [
    "Curvature",
    "refusing_missing_derivatives",
]


class Curvature:
    """The sum of a curvature matrix over microbatches at θ, divided by the weight of all examples.

    `kept` builds a microbatch's product with its graphs, which are kept while `graphs` bytes
    (default: half of the free memory) allow. `passing` builds the products of the microbatches that
    do not fit, anew for each call of `@` and once for all its columns. If memory runs out, kept
    graphs are dropped before batches are halved. Call `release` to free the graphs.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        kept: Linearize,
        passing: Linearize | None = None,
        *,
        graphs: float | None = None,
    ) -> None:
        self.objective, self._theta = objective, theta
        self.size = objective.size
        self.dtype, self.device = theta.dtype, theta.device
        self.products = 0
        self.error = 0.0  # products are exact up to rounding
        self._keep, self._pass = kept, passing or kept
        self._budget = graph_budget(theta.device, None) if graphs is None else graphs
        self._cost: GraphCost | None = None
        self._leaves = objective.leaves(theta)
        self._kept: list[Product | None] = []
        self._kept_batch_size = 0
        self._weight: Tensor | None = None

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Hv for v (n,), or HV for V (n, k); an error names what is not finite first."""
        rows = vectors.reshape(self.size, -1).T.contiguous()
        self.products += len(rows)
        out = self.objective.within_memory(lambda: self._apply_within(rows))
        # The sum shows non-finite values in most cases, without a copy of the products.
        if not bool(torch.isfinite(out.sum())) and not bool(torch.isfinite(out).all()):
            self._refuse(out)
        return out.T.reshape(vectors.shape)

    def release(self) -> None:
        """Free the kept graphs."""
        self._kept = []

    @property
    def microbatches(self) -> tuple[int, int]:
        """How many microbatches keep their graphs, out of how many; 0 before a product."""
        return sum(product is not None for product in self._kept), len(self._kept)

    def _apply_within(self, rows: Tensor) -> Tensor:
        """The product; if memory runs out, again with half of the kept graphs, down to none."""
        while True:
            try:
                return self._apply(rows)
            except RuntimeError as error:
                kept, _ = self.microbatches
                if not is_out_of_memory(error) or not kept or self._cost is None:
                    raise
            self._budget = self._cost.of(self._kept_batch_size) * (kept // 2)
            self._kept = []

    def _refuse(self, products: Tensor) -> NoReturn:
        value, gradient = self.objective.gradient(self._theta)
        check_finite(self.objective, value, self._theta, gradient)
        index = int((~torch.isfinite(products)).any(0).nonzero()[0])
        raise SharpError(
            "the second derivative is not finite although the gradient is, first in "
            f"'{self.objective.network.locate(index)}'",
            "the loss has a singular point here (a power below 2 at 0); move it off with a small "
            f"constant, or leave the hessian and trace out with {setting('measures')}",
        )

    def _apply(self, rows: Tensor) -> Tensor:
        network, objective = self.objective.network, self.objective
        out = torch.zeros_like(rows)
        if self._kept_batch_size != objective.batch_size:  # memory ran out and batches shrank
            self._kept, self._kept_batch_size = [], objective.batch_size
        first = not self._kept
        if self._cost is None:
            self._cost = graph_cost(objective, self._leaves, self._keep)
        spent = 0.0
        weights = []
        for index, (batch, count) in enumerate(objective.batches()):
            product = None if first else self._kept[index]
            if product is None:
                spent += self._cost.of(count)
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


def refusing_missing_derivatives(work: Callable[[], None]) -> None:
    """Run `work`; raise `SharpError` if an operation of the model lacks a derivative."""
    try:
        work()
    except RuntimeError as error:  # also what lacks an implementation: torch has no class of it
        said = str(error)
        if "derivative" not in said and "forward AD" not in said and "jvp" not in said:
            raise
        raise SharpError(
            f"the model has no second derivative: {said.splitlines()[0]}",
            f"take {setting('hvp', 'finite-difference')}, which needs gradients only, leave the "
            f"hessian and trace out with {setting('measures')}, or replace the operation that is "
            "named",
        ) from error
