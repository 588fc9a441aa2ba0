"""Curvature from first derivatives of a model: Gauss-Newton and Fisher matrices, exact.

Both are Jᵀ B J, with J the derivatives of some outputs in the parameters. One forward pass a
microbatch makes the graphs of the outputs and of u ↦ Jᵀu. The latter is linear in u, so that its
own backward pass is v ↦ Jv; every product uses both again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..data import Batch
from ..errors import SharpError
from ..objective import Objective, accumulate_into, accumulator
from .curvature import refusing_missing_derivatives
from .graphs import Product, without_numbers
from .outputs import replaced, tensors_of

__all__ = ["empirical_fisher", "gauss_newton"]


def gauss_newton(objective: Objective, leaves: list[Tensor], batch: Batch, count: int) -> Product:
    """Jᵀ B J with J of the outputs and B the loss's Hessian in them (Schraudolph 2002).

    The outputs are whatever the loss differentiates through: a tensor, or tensors in tuples,
    mappings and objects. Raises `SharpError` where the loss is linear in them. Cost: a product is
    about 1.3 gradients for an MLP, up to 2.
    """
    network = objective.network
    with network.arithmetic():
        outputs = network.outputs(leaves, objective.fixed, batch)
        every = tensors_of(outputs)
        points = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in every]
        total, weight = network.losses(replaced(outputs, points), batch, count)
        total = total.sum(dtype=accumulator(network.device))
    places = [i for i, point in enumerate(points) if point.requires_grad]
    slopes = _gradient(total, [points[i] for i in places])
    # B is symmetric: outputs in which the loss is linear have neither a row nor a column.
    curved = [(i, slope) for i, slope in zip(places, slopes, strict=True) if slope is not None]
    if not curved:
        raise SharpError(
            "the Gauss-Newton matrix is zero: the loss is linear in what predict() gives",
            "predict() has to give the model's outputs, such as logits, and loss() to take the "
            "loss of them (a loss that the model computes has its curvature inside the model); or "
            "take --operator empirical-fisher",
        )
    outs = [every[i] for i, _ in curved]
    ends, edges = [points[i] for i, _ in curved], [slope for _, slope in curved]

    def bend(tangents: list[Tensor]) -> list[Tensor]:
        return list(
            torch.autograd.grad(
                edges, ends, tangents, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )

    return _product(outs, leaves, bend, weight.sum(dtype=accumulator(network.device)))


def empirical_fisher(
    objective: Objective, leaves: list[Tensor], batch: Batch, count: int
) -> Product:
    """Σ ∇ℓᵢ ∇ℓᵢᵀ over the examples, as JᵀJ with J of their losses: no gradient is stored.

    Raises `SharpError` where the task's loss gives one sum for a batch. Cost as `gauss_newton`.
    """
    network = objective.network
    with network.arithmetic():
        outputs = network.outputs(leaves, objective.fixed, batch)
        losses, weight = network.losses(outputs, batch, count)
    if losses.shape != (count,):
        raise SharpError(
            f"task '{network.task.name}': the loss gives one sum for a batch, so there is no "
            "gradient of an example, which the empirical Fisher matrix is made of",
            "return the sum and the weight of each example, shape (N,), or take --operator ggn",
        )
    if not losses.requires_grad:
        objective.differentiable_sum(leaves, batch, count)  # which says so
    return _product([losses], leaves, list, weight.sum(dtype=accumulator(network.device)))


def _gradient(total: Tensor, points: list[Tensor]) -> list[Tensor | None]:
    """The differentiable slope of a sum in each point, None where it is constant."""
    if not total.requires_grad or not points:
        return [None] * len(points)
    slopes = torch.autograd.grad(total, points, create_graph=True, allow_unused=True)
    return [slope if slope is not None and slope.requires_grad else None for slope in slopes]


def _product(
    outs: list[Tensor],
    leaves: list[Tensor],
    bend: Callable[[list[Tensor]], list[Tensor]],
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
