"""The statistics of batch normalisation at averaged weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpcli.objective.rows import Batch, Rows
from sharpcli.runtime.randomness import global_random_state_kept

__all__ = ["normalisations", "recompute"]


def normalisations(model: nn.Module) -> list[_BatchNorm]:
    """The layers whose statistics follow the training; `model` is in training mode."""
    return [
        each
        for each in model.modules()
        if isinstance(each, _BatchNorm) and each.training and each.running_mean is not None
    ]


def recompute(
    model: nn.Module,
    layers: list[_BatchNorm],
    rows: Rows,
    forward: Callable[[Batch], object],
    most: int,
) -> None:
    """Set the layers' running statistics to those of the rows at the model's weights.

    They are the mean over batches of nearly one size, of at most `most` rows (with fixed batches,
    those). Other layers are in evaluation mode: nothing is dropped out.

    Cost: a forward pass over the rows.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima", section 3.2.
    """
    modes = [(each, each.training) for each in model.modules()]
    momenta = [(layer, layer.momentum) for layer in layers]
    fixed = rows.fixed_batch
    batches = max(1, rows.count // fixed) if fixed else math.ceil(rows.count / most)
    used = min(batches * fixed, rows.count) if fixed else rows.count
    edges = [used * index // batches for index in range(batches + 1)]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    with torch.no_grad(), global_random_state_kept():
        for first, last in itertools.pairwise(edges):
            forward(rows.slice(first, last))
    for layer, momentum in momenta:
        layer.momentum = momentum
    for each, training in modes:
        each.training = training
