"""Exact Gauss-Newton and Fisher matrices from first derivatives of a model.

Both are Jᵀ B J, with J the derivatives of some outputs in the parameters. One forward pass for each
microbatch builds the graphs of the outputs and of u ↦ Jᵀu. The latter is linear in u, so its own
backward pass is v ↦ Jv. Every product reuses both graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharpcli.curvature.graphs import Product, without_numbers
from sharpcli.curvature.operator import refusing_missing_derivatives
from sharpcli.errors import SharpError, setting
from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.objective import Objective, accumulate_into
from sharpcli.objective.outputs import replaced, tensors_of
from sharpcli.objective.rows import Batch

__all__ = ["LossCurvature", "empirical_fisher", "gauss_newton"]

# The loss's Hessian in some outputs times one tensor for each output.
Bend = Callable[[list[Tensor]], list[Tensor]]


def gauss_newton(objective: Objective, leaves: list[Tensor], batch: Batch, count: int) -> Product:
    """Jᵀ B J, with J the derivatives of the outputs and B the loss's Hessian in the outputs.

    The outputs may be a tensor, or tensors in tuples, mappings and objects.

    Raises:
        SharpError: if the loss is linear in the outputs.

    Cost: a product is about 1.3 gradients for an MLP, up to 2.
    Source: Schraudolph 2002.
    """
    outputs = _outputs(objective, leaves, batch)
    curved, bend, weight = _loss_curvature(objective, outputs, batch, count)
    if not curved:
        raise SharpError(
            "the Gauss-Newton matrix is zero: the loss is linear in what predict() gives",
            "predict() has to give the model's outputs, such as logits, and loss() to take the "
            "loss of them (a loss that the model computes has its curvature inside the model); or "
            f"take {setting('operator', 'empirical-fisher')}",
        )
    every = tensors_of(outputs)
    return _product([every[i] for i in curved], leaves, bend, weight)


class LossCurvature:
    """The loss's Hessian in the outputs of the first examples, as an operator on all these outputs.

    It takes as many examples as have at most `most` outputs together, but at least one. It is B of
    the Gauss-Newton matrix, not divided by the weight.

    Cost: a product is cheaper than one of the model's.
    """

    def __init__(self, objective: Objective, theta: Tensor, most: int) -> None:
        leaves = objective.leaves(theta)
        count = objective.rows.count
        if not objective.network.model.training:
            one = _outputs(objective, leaves, objective.rows.slice(0, 1))
            size = sum(tensor.numel() for tensor in tensors_of(one))
            count = max(1, min(count, most // max(size, 1)))
        batch = objective.rows.slice(0, count)
        outputs = _outputs(objective, leaves, batch)
        curved, self._bend, _ = _loss_curvature(objective, outputs, batch, count)
        every = tensors_of(outputs)
        self._shapes = [every[i].shape for i in curved]
        self._sizes = [every[i].numel() for i in curved]
        self.size, self.products = sum(self._sizes), 0
        self.dtype, self.device = theta.dtype, theta.device

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Bu for u (m,), or BU for U (m, k)."""
        columns = vectors.reshape(self.size, -1).T
        self.products += len(columns)
        found = []
        for column in columns:
            parts = torch.split(column, self._sizes)
            tangents = [p.reshape(shape) for p, shape in zip(parts, self._shapes, strict=True)]
            found.append(torch.cat([part.reshape(-1) for part in self._bend(tangents)]))
        return torch.stack(found).T.reshape(vectors.shape)


def _outputs(objective: Objective, leaves: list[Tensor], batch: Batch) -> Any:
    with objective.network.arithmetic():
        return objective.network.outputs(leaves, objective.fixed, batch)


def _loss_curvature(
    objective: Objective, outputs: Any, batch: Batch, count: int
) -> tuple[list[int], Bend, Tensor]:
    """Indices of the outputs in which the loss has curvature, its Hessian there, and its weight."""
    network = objective.network
    points = [t.detach().requires_grad_(t.requires_grad) for t in tensors_of(outputs)]
    with network.arithmetic():
        total, weight = network.losses(replaced(outputs, points), batch, count)
        total = total.sum(dtype=accumulator(network.device))
    places = [i for i, point in enumerate(points) if point.requires_grad]
    slopes = _gradient(total, [points[i] for i in places])
    # B is symmetric: outputs in which the loss is linear have neither a row nor a column.
    curved = {i: slope for i, slope in zip(places, slopes, strict=True) if slope is not None}
    ends, edges = [points[i] for i in curved], list(curved.values())

    def bend(tangents: list[Tensor]) -> list[Tensor]:
        return list(
            torch.autograd.grad(
                edges, ends, tangents, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )

    return list(curved), bend, weight.sum(dtype=accumulator(network.device))


def empirical_fisher(
    objective: Objective, leaves: list[Tensor], batch: Batch, count: int
) -> Product:
    """Σ ∇ℓᵢ ∇ℓᵢᵀ over the examples, as JᵀJ with J the derivatives of their losses.

    No gradient of a single example is stored.

    Raises:
        SharpError: if the task's loss returns one sum for a batch.

    Cost: as `gauss_newton`.
    """
    network = objective.network
    with network.arithmetic():
        outputs = network.outputs(leaves, objective.fixed, batch)
        losses, weight = network.losses(outputs, batch, count)
    if losses.shape != (count,):
        raise SharpError(
            f"task '{network.task.name}': the loss gives one sum for a batch, so there is no "
            "gradient of an example, which the empirical Fisher matrix is made of",
            "return the sum and the weight of each example, shape (N,), or take "
            f"{setting('operator', 'ggn')}",
        )
    if not losses.requires_grad:
        objective.differentiable_sum(leaves, batch, count)  # raises the error that explains it
    return _product([losses], leaves, list, weight.sum(dtype=accumulator(network.device)))


def _gradient(total: Tensor, points: list[Tensor]) -> list[Tensor | None]:
    """The differentiable gradient of a sum in each point, None if the sum does not depend on it."""
    if not total.requires_grad or not points:
        return [None] * len(points)
    slopes = torch.autograd.grad(total, points, create_graph=True, allow_unused=True)
    return [slope if slope is not None and slope.requires_grad else None for slope in slopes]


def _product(
    outs: list[Tensor],
    leaves: list[Tensor],
    bend: Bend,
    weight: Tensor,
) -> Product:
    """Jᵀ·bend(Jv), with J the derivatives of `outs` in the leaves."""
    cotangents = [torch.zeros_like(out, requires_grad=True) for out in outs]
    pulled = torch.autograd.grad(outs, leaves, cotangents, create_graph=True, allow_unused=True)
    reached = [i for i, part in enumerate(pulled) if part is not None and part.requires_grad]
    parts = [without_numbers(p) for p in pulled if p is not None and p.requires_grad]
    del pulled

    def product(vector: list[Tensor], result: list[Tensor]) -> Tensor:
        def passes() -> None:
            tangents = torch.autograd.grad(
                parts,
                cotangents,
                [vector[i] for i in reached],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            accumulate_into(leaves, result)
            torch.autograd.backward(outs, bend(list(tangents)), retain_graph=True, inputs=leaves)

        refusing_missing_derivatives(passes)
        return weight

    return product
