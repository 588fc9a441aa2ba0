"""The scatter of single examples' gradients about their mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.documents.statuses import SamplingStatus
from sharpcli.errors import SharpError, setting
from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.context import Context
from sharpcli.objective.example_gradients import example_gradients
from sharpcli.objective.reliability import carriers, student, widened
from sharpcli.objective.shards import SHARDS, shards, share_left
from sharpcli.runtime.randomness import own_generator

__all__ = ["Noise", "applies", "deviations", "measured_noise", "squared_gradient"]


@dataclass(frozen=True)
class Noise:
    """tr Σ from the examples that were looked at, Σ the covariance of the examples' gradients.

    Attributes:
        indices: their rows.
        squares: |gᵢ − G|² of each, float64 on the CPU.
        factor: tr Σ is this times their mean.
        weight: the mean weight of an example's loss.
    """

    indices: Tensor
    squares: Tensor
    factor: float
    weight: float
    left: float

    @property
    def trace(self) -> float:
        """Tr Σ."""
        return self.factor * float(self.squares.mean())

    @property
    def carried(self) -> float:
        """How many examples carry the variance of the squares."""
        off = self.squares - self.squares.mean()
        off = off / (float(off.abs().max()) or 1.0)
        return carriers(float(off.square().sum()), float(off.pow(4).sum()), len(off))

    @property
    def error(self) -> float | None:
        """The standard error of tr Σ, widened if few examples carry it; None with too few."""
        count = len(self.squares)
        if not self.left:
            return 0.0
        if count < 2:
            return None
        spread = float(self.squares.var()) / count * self.left
        return self.factor * widened(math.sqrt(spread), min(count - 1.0, 2 * self.carried))

    @property
    def widening(self) -> float:
        """How much wider than a normal interval one of tr Σ has to be."""
        return student(min(len(self.squares) - 1.0, 2 * self.carried)) / student(math.inf)


def applies(context: Context) -> None:
    """Raise `SharpError` if the loss is not a mean over independent examples."""
    if context.objective.fixed_batch is not None:
        raise SharpError(
            "the loss is defined on batches, so there is no gradient of an example",
            f"measure without {setting('fixed_batch')}, in {setting('mode', 'eval')}",
        )


def measured_noise(context: Context) -> Noise:
    """The scatter of the examples' gradients, computed once for a context.

    With examples of weight wᵢ in a loss Σs/Σw, gᵢ − G is (∇sᵢ − wᵢG)/w̄, the noise of a batch's
    mean. G is that of all measured rows, so it adds no bias if these are all the data. On a sample
    of N rows tr Σ is corrected by N/(N − 1).

    Cost: a forward pass, a gradient and a gradient of each example that is looked at.
    """
    if (known := context.known("noise")) is not None:
        found: Noise = known
        return found
    objective, rows = context.objective, context.objective.rows
    names, sums = objective.moments(context.theta)
    weight = float(sums[names.index("loss")][1]) / rows.count
    most = int(context.settings.options["noise_examples"])
    generator = own_generator("noise of examples", context.seed)
    indices = torch.randperm(rows.count, generator=generator)[:most]
    squares = []
    for off in deviations(context, indices, weight):
        norms = torch.linalg.vector_norm(off, dim=1, dtype=torch.float64)
        squares.append(norms.square().cpu())
        context.progress(sum(map(len, squares)), len(indices))
    factor = rows.count / (rows.count - 1) if rows.sampled and rows.count > 1 else 1.0
    left = 1 - len(indices) / rows.total
    found = Noise(indices, torch.cat(squares), factor, weight, left)
    context.__dict__["noise"] = found
    return found


def deviations(context: Context, indices: Tensor, weight: float) -> Iterator[Tensor]:
    """gᵢ − G of the examples of `indices`, some at a time (b, n)."""
    mean = context.value_and_gradient[1]
    for sums, weights in example_gradients(context.objective, context.theta, indices):
        share = weights.to(sums)[:, None] / weight
        yield sums / weight - share * mean


@dataclass(frozen=True)
class SquaredGradient:
    """|G|² of all data, with its error; `moves` are what shards (16,) move it by, if sampled."""

    value: float
    error: float
    moves: Tensor | None
    unreliable: SamplingStatus | None


def squared_gradient(context: Context, noise: Noise) -> SquaredGradient:
    """|G|² without the bias that a sample's noise adds.

    A sample of N rows has |G|² + tr Σ/N on average, times what is left of the data. Cost: on a
    sample one gradient, over all shards together.
    """
    objective, gradient = context.objective, context.value_and_gradient[1]
    square = float(dots(gradient[None], gradient[None]))
    rounding = 2 * math.sqrt(square) * float(context.rounding.gradient[1].norm())
    if not objective.rows.sampled:
        return SquaredGradient(square, rounding, None, None)
    bias = share_left(objective) * noise.trace / objective.rows.count
    if objective.rows.count < 2 * SHARDS:
        return SquaredGradient(square - bias, math.inf, None, SamplingStatus.UNRELIABLE)
    moves = [
        2 * float(dots(gradient[None], (shard.gradient(context.theta)[1] - gradient)[None]))
        for shard in shards(objective, context.seed)
    ]
    found = torch.tensor(moves, dtype=torch.float64)
    first = float(found.var() / SHARDS * share_left(objective))
    error = math.hypot(math.sqrt(first), bias, rounding)
    return SquaredGradient(square - bias, widened(error, SHARDS - 1), found, None)
