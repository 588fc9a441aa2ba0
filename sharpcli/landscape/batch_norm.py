"""What a batch-normalised network's running statistics are at a point between checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..network import Network
from ..objective import Objective, accumulator

__all__ = ["EnoughError", "batch_norm_layers", "batch_statistics", "recalibration_rows"]

# Bytes of activations (counted as for a backward pass, so several times what is held at once) up
# to which statistics are taken in one forward pass; beyond, by default, on as many examples as fit.
# A constant and not a share of what is free: the number of examples is part of the answer.
_ONE_PASS_BYTES = 4 * 2**30


def batch_norm_layers(network: Network) -> dict[str, nn.Module]:
    """The model's batch-normalisation layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in network.model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def recalibration_rows(train: Objective, asked: int | None, seed: int) -> Objective:
    """The training objective on the examples that statistics are taken of.

    `asked` of them drawn by `seed`, or (None) all that fit in one pass.
    """
    most = max(2, int(_ONE_PASS_BYTES / max(train.saved_bytes, 1))) if asked is None else asked
    if most >= train.rows.count:
        return train
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(train.rows.count, generator=generator)[:most].sort().values
    return Objective(
        train.network, train.rows.take(chosen), train.fixed, batch_size=min(most, train.batch_size)
    )


def batch_statistics(
    objective: Objective, theta: Tensor, fixed: Mapping[str, Tensor], *, unbiased: bool = True
) -> dict[str, Tensor]:
    """`fixed` with every running mean and variance as at θ over all of the objective's rows.

    They are what one pass in training mode with all rows as one batch gives: each layer sees
    activations normalised by their own mean and (biased) variance, and what is kept is the mean
    and the unbiased variance (`unbiased=False`: the biased one, with which evaluation is then
    the same as that pass). Where the rows do not fit in one pass, each layer takes a pass of its
    own over batches, with the layers before it done: the statistics do not depend on the batches.
    A layer that is called twice keeps the statistics of its first call.

    Cost: one forward pass, or up to one a layer.
    """
    network = objective.network
    statistics = {name: tensor.clone() for name, tensor in fixed.items()}
    layers = batch_norm_layers(network)
    whole = objective.saved_bytes * objective.rows.count <= _ONE_PASS_BYTES
    size = objective.rows.count if whole else objective.batch_size
    found: dict[str, float] = {}  # layer → how many values each channel's statistics are of
    pending: dict[str, tuple[float, Tensor, Tensor]] = {}

    def keep(name: str, count: float, mean: Tensor, variance: Tensor) -> None:
        statistics[f"{name}.running_mean"].copy_(mean)
        statistics[f"{name}.running_var"].copy_(variance)
        found[name] = count

    def see(name: str, values: Tensor) -> None:
        if name in found:
            return
        part = _count_mean_variance(values)
        if whole:
            keep(name, *part)  # in time for this very call
            return
        pending[name] = _merged(pending[name], part) if name in pending else part
        raise EnoughError

    with torch.no_grad(), network.arithmetic(), _seen_by(layers, see):
        while len(found) < len(layers):
            pending.clear()
            for batch in objective.rows.split(size):
                with suppress(EnoughError):
                    network.outputs(network.unflatten(theta), statistics, batch)
            if whole or not pending:
                break  # what is left is never called
            for name, part in pending.items():
                keep(name, *part)
    if unbiased:
        for name, count in found.items():
            statistics[f"{name}.running_var"].mul_(count / max(count - 1, 1))
    return statistics


class EnoughError(BaseException):
    """Ends a forward pass whose remaining layers are not needed; no task's code should catch it."""


@contextmanager
def _seen_by(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show every layer's input before the layer is applied."""

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, arguments: see(name, arguments[0])

    hooks = [layer.register_forward_pre_hook(hook_of(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _count_mean_variance(values: Tensor) -> tuple[float, Tensor, Tensor]:
    """Count, mean and biased variance of each channel (dimension 1), float64 where there is one."""
    dimensions = [d for d in range(values.dim()) if d != 1]
    variance, mean = torch.var_mean(values, dimensions, correction=0)
    kind = accumulator(values.device)
    return values.numel() / values.shape[1], mean.to(kind), variance.to(kind)


def _merged(
    left: tuple[float, Tensor, Tensor], right: tuple[float, Tensor, Tensor]
) -> tuple[float, Tensor, Tensor]:
    """Two groups' statistics as one group's (Chan, Golub & LeVeque 1983)."""
    (m, mean_m, variance_m), (n, mean_n, variance_n) = left, right
    total, apart = m + n, mean_n - mean_m
    mean = mean_m + apart * (n / total)
    variance = (m * variance_m + n * variance_n) / total + apart.square() * (m * n / total**2)
    return total, mean, variance
