"""Gradients of single examples' losses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import SharpError
from sharpcli.objective.objective import Objective
from sharpcli.objective.trees import leaves as leaves_of
from sharpcli.objective.trees import map_leaves

__all__ = ["example_gradients"]

# Bytes for the gradients of the examples that are computed at once, and the most examples.
_BYTES, _MOST = 2**28, 64
# A gradient by vmap that differs from that of the example alone by more, as a share of it, is one
# of another function: a model may look at its batch.
_ALIKE = 1e-3


def example_gradients(
    objective: Objective, theta: Tensor, indices: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """∇ of the sum of each example's loss, and the loss's weight: (b, n) and (b,) at a time.

    By `vmap`, or one example after the other if the model cannot be batched so. Every process
    computes all.

    Args:
        objective: whose loss gives one number for each example.
        theta: θ (n,).
        indices: the rows, in the order of the result.

    Cost: a gradient of each row; 256 MiB for those that are computed at once.
    """
    together = max(1, min(_MOST, _BYTES // max(theta.numel() * theta.element_size(), 1)))
    batched = together > 1
    with objective.network.arithmetic():
        for start in range(0, len(indices), together):
            chosen = indices[start : start + together]
            found = _by_vmap(objective, theta, chosen, check=not start) if batched else None
            if found is None:
                batched = False
                pairs = [_alone(objective, theta, index) for index in torch.split(chosen, 1)]
                yield torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
            else:
                yield found


def _by_vmap(
    objective: Objective, theta: Tensor, indices: Tensor, *, check: bool
) -> tuple[Tensor, Tensor] | None:
    batch = objective.rows.batch_of(indices)
    if not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves_of(batch)):
        return None

    def total(point: Tensor, example: Any) -> tuple[Tensor, Tensor]:
        alone = map_leaves(example, lambda leaf: leaf[None])
        return objective.sum_and_weight(objective.network.unflatten(point), alone, 1)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*performance drop")
            slopes = torch.func.grad(total, has_aux=True)
            gradients, weights = torch.vmap(slopes, in_dims=(None, 0))(theta, batch)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, SharpError):
        return None  # one example after the other shows whether anything else is wrong
    if check:
        alone, _ = _alone(objective, theta, indices[:1])
        if float((gradients[0] - alone).norm()) > _ALIKE * float(alone.norm()):
            return None
    return gradients.detach(), weights.detach()


def _alone(objective: Objective, theta: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    leaves = objective.leaves(theta)
    batch = objective.rows.batch_of(index)
    total, weight = objective.differentiable_sum(leaves, batch, 1)
    parts = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parts]), weight.detach()
