"""Exact Hessian-vector products by three orders of differentiation."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sharpcli.curvature.graphs import Product, without_numbers
from sharpcli.curvature.operator import refusing_missing_derivatives
from sharpcli.objective.objective import Objective, accumulate_into
from sharpcli.objective.rows import Batch

__all__ = ["double_backward", "forward_over_reverse", "reverse_over_forward"]


def double_backward(
    objective: Objective, leaves: list[Tensor], batch: Batch, count: int
) -> Product:
    """∇⟨∇L, v⟩ (Pearlmutter 1994); the graph of ∇L is built once and reused by every product.

    Cost: a product is the second backward pass alone: 1.5 gradients for an MLP, up to 2.8.
    """
    total, weight = objective.differentiable_sum(leaves, batch, count)
    every = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
    curved = [i for i, gradient in enumerate(every) if gradient.requires_grad]
    gradients = [without_numbers(every[i]) for i in curved]
    del every, total

    def product(vector: list[Tensor], result: list[Tensor]) -> Tensor:
        def backward() -> None:
            torch.autograd.backward(
                gradients, [vector[i] for i in curved], retain_graph=True, inputs=leaves
            )

        if gradients:
            accumulate_into(leaves, result)
            refusing_missing_derivatives(backward)
        return weight

    return product


def forward_over_reverse(
    objective: Objective, leaves: list[Tensor], batch: Batch, count: int
) -> Product:
    """The derivative of ∇L along v: both passes use dual numbers, and nothing is kept."""

    def product(vector: list[Tensor], result: list[Tensor]) -> Tensor:
        weight: list[Tensor] = []

        def passes() -> None:
            with _scripting_unsaid(), forward_ad.dual_level():
                duals = _duals(leaves, vector)
                total, found = objective.differentiable_sum(duals, batch, count)
                gradients = torch.autograd.grad(total, duals, allow_unused=True)
                _add(result, [None if g is None else _tangent(g) for g in gradients])
                weight.append(found.detach())

        refusing_missing_derivatives(passes)
        return weight[0]

    return product


def reverse_over_forward(
    objective: Objective, leaves: list[Tensor], batch: Batch, count: int
) -> Product:
    """The gradient of L's derivative along v, which a forward pass with dual numbers computes."""

    def product(vector: list[Tensor], result: list[Tensor]) -> Tensor:
        weight: list[Tensor] = []

        def total(*parameters: Tensor) -> tuple[Tensor, Tensor]:
            return objective.sum_and_weight(list(parameters), batch, count)

        def passes() -> None:
            # Plain dual numbers fail: log_softmax overwrites what the backward pass needs.
            with _scripting_unsaid():
                derived: tuple[Tensor, ...] = torch.func.jvp(
                    total, tuple(leaves), tuple(vector), has_aux=True
                )
            _, slope, found = derived
            if slope.requires_grad:
                _add(result, list(torch.autograd.grad(slope, leaves, allow_unused=True)))
            weight.append(found.detach())

        refusing_missing_derivatives(passes)
        return weight[0]

    return product


@contextlib.contextmanager
def _scripting_unsaid() -> Iterator[None]:
    """Silence PyTorch's warning that it scripts the derivatives of some operations.

    The warning is about PyTorch's own code; its category changed from one release to another.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.")
        yield


def _duals(leaves: list[Tensor], vector: list[Tensor]) -> list[Tensor]:
    make: Callable[[Tensor, Tensor], Tensor] = forward_ad.make_dual
    return [make(leaf, part) for leaf, part in zip(leaves, vector, strict=True)]


def _tangent(dual: Tensor) -> Tensor | None:
    unpack: Callable[[Tensor], tuple[Tensor, Tensor | None]] = forward_ad.unpack_dual
    return unpack(dual)[1]


def _add(result: list[Tensor], parts: list[Tensor | None]) -> None:
    for view, part in zip(result, parts, strict=True):
        if part is not None:
            view.add_(part.detach())
