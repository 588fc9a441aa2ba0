"""The result of a pass on a few rows, by the model itself and by the measured network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.losses import sums_and_weights
from sharpcli.objective.network import Network
from sharpcli.objective.outputs import tensors_of
from sharpcli.objective.rows import Rows

__all__ = ["NUDGE", "Seen", "nudge", "of_model", "of_network"]

# The parameters are also compared a little off the checkpoint's: each tensor moves by this share of
# its root mean square. Numbers computed from others, or cached in an earlier pass, then differ.
NUDGE = 0.01
_NUDGE_OF_ZEROS = 1e-3


class Seen:
    """The outputs, losses and weights of a pass on a few rows, and the leaves of their graph."""

    def __init__(self, outputs: Any, total: Tensor, weight: Tensor, leaves: Mapping[str, Tensor]):
        self.values = [each.detach() for each in (*tensors_of(outputs), total, weight)]
        self._total, self._leaves = total.double().sum(), leaves
        self._gradients: dict[str, Tensor] | None = None

    @property
    def loss(self) -> float:
        """The sum of the losses."""
        return float(self._total)

    @property
    def strangers(self) -> list[Tensor]:
        """What the loss depends on by autograd, beside the given leaves. Cost: no pass."""
        own, found = {id(each) for each in self._leaves.values()}, []
        seen, ahead = set(), [self._total.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            ahead += [each for each, _ in node.next_functions]
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in own:
                found.append(leaf)
        return found

    @property
    def largest(self) -> float:
        """The largest magnitude among outputs, losses and weights."""
        return max(float(value.abs().max()) for value in self.values if value.numel())

    @property
    def finite(self) -> bool:
        """Whether all values are."""
        return all(bool(torch.isfinite(value).all()) for value in self.values)

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Gradients of the sum of the losses by parameter, without parameters outside the graph."""
        if self._gradients is None:
            found: Sequence[Tensor | None] = [None] * len(self._leaves)
            if self._total.requires_grad:
                leaves = list(self._leaves.values())
                found = torch.autograd.grad(self._total, leaves, allow_unused=True)
            self._gradients = {
                name: _as_reals(each)
                for name, each in zip(self._leaves, found, strict=True)
                if each is not None
            }
        return self._gradients


def of_model(like: Network, original: nn.Module, rows: Rows) -> Seen:
    """Run the model itself, called as the task calls it."""
    task, own = like.task, dict(original.named_parameters())
    with exact_arithmetic():
        outputs = task.predict(original, rows.batch)
        pair = sums_and_weights(task.loss(outputs, rows.batch), rows.count, f"{task.name}: loss")
    return Seen(outputs, *pair, {name: own[name] for name in like.names})


def of_network(network: Network, theta: Tensor, tensors: Mapping[str, Tensor], rows: Rows) -> Seen:
    """Run the functional network."""
    leaves = [view.requires_grad_() for view in network.unflatten(theta.detach())]
    with exact_arithmetic():
        outputs = network.outputs(leaves, network.fixed(tensors), rows.batch)
        pair = network.losses(outputs, rows.batch, rows.count)
    return Seen(outputs, *pair, dict(zip(network.names, leaves, strict=True)))


def nudge(network: Network, theta: Tensor, seed: int) -> Tensor:
    """Move every tensor of θ randomly by a small share of its root mean square."""
    generator = torch.Generator().manual_seed(seed)
    moved = torch.randn(len(theta), generator=generator, dtype=torch.float32).to(theta)
    for step, part in zip(network.unflatten(moved), network.unflatten(theta), strict=True):
        size = float(part.double().square().mean().sqrt()) if part.numel() else 0.0
        step.mul_(NUDGE * size or _NUDGE_OF_ZEROS)
    return moved.add_(theta)


def _as_reals(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.to_dense() if tensor.is_sparse else tensor
