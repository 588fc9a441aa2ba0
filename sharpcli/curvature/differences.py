"""Products of curvature matrices from first derivatives alone, by central differences.

They share only the forward pass and the plain backward pass with the operators that they check, so
an operation with a wrong second derivative does not affect them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.objective import Objective, accumulate_into
from sharpcli.objective.outputs import replaced, tensors_of
from sharpcli.objective.rows import Batch
from sharpcli.settings.curvature import Operator

__all__ = ["DIFFERENCES", "Difference", "hessian_by_differences"]

# The objective's matrix at θ (n,) times v (n,), from a step of this length along v.
Difference = Callable[[Objective, Tensor, Tensor, float], Tensor]
# Tensors of a batch that depend on the leaves, a cotangent for each, and the batch's weight.
_Pulled = tuple[list[Tensor], list[Tensor], Tensor]


def hessian_by_differences(
    objective: Objective, theta: Tensor, vector: Tensor, step: float
) -> Tensor:
    """(∇L(θ + hv) − ∇L(θ − hv)) / 2h. Cost: two gradients."""
    _, found = objective.gradient(theta.add(vector, alpha=step))
    found -= objective.gradient(theta.sub(vector, alpha=step))[1]
    return found.div_(2 * step)


def gauss_newton_by_differences(
    objective: Objective, theta: Tensor, vector: Tensor, step: float
) -> Tensor:
    """Jᵀ(∇ℓ(f(θ + hv)) − ∇ℓ(f(θ − hv))) / 2h, with ∇ℓ the loss's gradient in the outputs f.

    Cost: one gradient and two forward passes.
    """
    network, leaves = objective.network, objective.leaves(theta)

    def slopes(point: Tensor, batch: Batch, count: int) -> list[Tensor]:
        with torch.no_grad():
            outputs = network.outputs(network.unflatten(point), objective.fixed, batch)
        points = [tensor.detach().requires_grad_() for tensor in tensors_of(outputs)]
        total, _ = network.losses(replaced(outputs, points), batch, count)
        return list(
            torch.autograd.grad(total.sum(), points, allow_unused=True, materialize_grads=True)
        )

    def pulled(batch: Batch, count: int) -> _Pulled:
        ahead = slopes(theta.add(vector, alpha=step), batch, count)
        behind = slopes(theta.sub(vector, alpha=step), batch, count)
        outputs = network.outputs(leaves, objective.fixed, batch)
        _, weight = network.losses(outputs, batch, count)
        parts = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
        return tensors_of(outputs), parts, weight

    return _pulled_back(objective, theta, leaves, pulled)


def empirical_fisher_by_differences(
    objective: Objective, theta: Tensor, vector: Tensor, step: float
) -> Tensor:
    """Jᵀ(ℓ(θ + hv) − ℓ(θ − hv)) / 2h, with ℓ (N,) the losses of the examples.

    Cost: one gradient and two forward passes.
    """
    network, leaves = objective.network, objective.leaves(theta)

    def losses(parameters: list[Tensor], batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        outputs = network.outputs(parameters, objective.fixed, batch)
        return network.losses(outputs, batch, count)

    def pulled(batch: Batch, count: int) -> _Pulled:
        with torch.no_grad():
            ahead = losses(network.unflatten(theta.add(vector, alpha=step)), batch, count)[0]
            behind = losses(network.unflatten(theta.sub(vector, alpha=step)), batch, count)[0]
        found, weight = losses(leaves, batch, count)
        return [found], [(ahead - behind) / (2 * step)], weight

    return _pulled_back(objective, theta, leaves, pulled)


DIFFERENCES: dict[Operator, Difference] = {
    "hessian": hessian_by_differences,
    "ggn": gauss_newton_by_differences,
    "fisher": gauss_newton_by_differences,
    "empirical-fisher": empirical_fisher_by_differences,
}


def _pulled_back(
    objective: Objective,
    theta: Tensor,
    leaves: list[Tensor],
    pulled: Callable[[Batch, int], _Pulled],
) -> Tensor:
    """Σ Jᵀc over the batches, divided by the weight of all examples."""

    def work() -> Tensor:
        flat = torch.zeros_like(theta)
        accumulate_into(leaves, objective.network.unflatten(flat))
        weights = []
        for batch, count in objective.batches():
            outputs, cotangents, weight = pulled(batch, count)
            pairs = [
                (out, part)
                for out, part in zip(outputs, cotangents, strict=True)
                if out.requires_grad
            ]
            if pairs:
                outs, parts = zip(*pairs, strict=True)
                torch.autograd.backward(outs, parts, inputs=leaves)
            weights.append(weight.sum(dtype=accumulator(theta.device)))
        objective.add_up(flat)
        whole = objective.add_up(torch.stack(weights).sum())
        return flat.div_(whole.to(flat.dtype))

    return objective.within_memory(work)
