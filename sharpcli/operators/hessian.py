"""The Hessian of an objective as an operator, with the gradients' graphs kept."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from ..errors import SharpError
from ..memory import available_memory
from ..objective import Objective, accumulate_into

__all__ = ["Hessian"]

# A gradient's graph, ready for a second derivative, holds about this many times the bytes that the
# forward pass saves (activations, their cotangents, and the temporaries of both).
_GRAPH_FACTOR = 4
# Share of the free memory that kept graphs may take: bases and temporaries need the rest.
_GRAPH_SHARE = 0.5


class Hessian:
    """∇²L at θ, applied by differentiating ⟨∇L, v⟩ (Pearlmutter 1994), exact to rounding.

    The graph of each microbatch's gradient is built once and kept while `memory` bytes (default:
    half of what is free) allow; a product then costs only the second backward pass, about 1.5
    gradients for an MLP. Microbatches that do not fit are rebuilt for every call of `@`, once for
    all its columns. Call `release` to free the graphs.
    """

    def __init__(self, objective: Objective, theta: Tensor, *, memory: int | None = None) -> None:
        self.objective, self._theta = objective, theta
        self.size = objective.size
        self.dtype, self.device = theta.dtype, theta.device
        self.products = 0
        budget = _GRAPH_SHARE * available_memory(theta.device) if memory is None else memory
        self._per_example = _GRAPH_FACTOR * objective.saved_bytes
        self._budget = budget
        self._leaves = objective.leaves(theta)
        self._kept: list[tuple[list[Tensor], list[int]] | None] = []
        self._kept_batch_size = 0
        self._weight = torch.ones((), device=theta.device)

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
        network = self.objective.network
        out = torch.zeros_like(rows)
        if self._kept_batch_size != self.objective.batch_size:  # memory ran out: other batches now
            self._kept, self._kept_batch_size = [], self.objective.batch_size
        first = not self._kept
        spent = 0.0
        weight: Tensor | float = 0.0
        for index, (batch, count) in enumerate(self.objective.batches()):
            graph = None if first else self._kept[index]
            if graph is None:
                graph, part_weight = self._differentiate(batch, count)
                weight = weight + part_weight
                if first:
                    spent += count * self._per_example
                    self._kept.append(graph if spent <= self._budget else None)
            for vector, result in zip(rows, out, strict=True):
                self._second_backward(graph, network.unflatten(vector), network.unflatten(result))
            del graph
        if isinstance(weight, Tensor) and first:
            self._weight = self.objective.add_up(weight)
        self.objective.add_up(out)
        return out.div_(self._weight.to(out.dtype))

    def _differentiate(
        self, batch: object, count: int
    ) -> tuple[tuple[list[Tensor], list[int]], Tensor]:
        """The differentiable gradient of a microbatch's summed loss, and its weight."""
        total, weight = self.objective.differentiable_sum(self._leaves, batch, count)
        gradients = torch.autograd.grad(
            total, self._leaves, create_graph=True, materialize_grads=True
        )
        curved = [i for i, gradient in enumerate(gradients) if gradient.requires_grad]
        return ([gradients[i] for i in curved], curved), weight

    def _second_backward(
        self, graph: tuple[list[Tensor], list[int]], vector: list[Tensor], result: list[Tensor]
    ) -> None:
        """Add the microbatch's (unnormalised) Hessian times a vector to `result`, in place."""
        gradients, curved = graph
        if not gradients:
            return
        accumulate_into(self._leaves, result)
        try:
            torch.autograd.backward(
                gradients, [vector[i] for i in curved], retain_graph=True, inputs=self._leaves
            )
        except (RuntimeError, NotImplementedError) as error:
            if "derivative" not in str(error):
                raise
            raise SharpError(
                f"the model has no second derivative: {str(error).splitlines()[0]}",
                "leave the hessian and trace out with -m, or replace the operation that is named",
            ) from error
