"""The noise scale of SGD, and schedules rewritten at the same noise scale. Imports no torch.

g = η(N/B − 1), and with momentum ηN/(B(1−m)): η the rate, B the batch size, N the examples of the
training data, m the momentum. Runs with the same g over the same examples end alike, so a rate that
decays can be a batch that grows, in fewer updates.

Source: Smith, Kindermans, Ying & Le 2018, "Don't decay the learning rate, increase the batch size".
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sharpcli.documents.noise import noise_scale

__all__ = [
    "Plan",
    "as_batch_size",
    "as_linear_scaling",
    "as_momentum",
    "batch_size_at",
    "default_max_batch",
    "lr_at",
    "noise_scale",
]

_CLOSE = (
    0.01  # of the noise scale: within it a whole batch keeps the rate, beyond it the rate moves
)


@dataclass(frozen=True)
class Plan:
    """The rate and the batch size of each update, and the momentum of all of them."""

    lr: Sequence[float]
    batch_size: Sequence[int]
    momentum: float = 0.0

    def noise_scales(self, examples: int) -> list[float]:
        """The noise scale of each update on data of so many examples."""
        return [
            noise_scale(lr, batch, examples, self.momentum)
            for lr, batch in zip(self.lr, self.batch_size, strict=True)
        ]


def batch_size_at(scale: float, lr: float, examples: int, momentum: float = 0.0) -> float:
    """The batch size (rarely whole) at which a rate has this noise scale; inf where both are 0."""
    if momentum:
        return lr * examples / (scale * (1 - momentum)) if scale else math.inf
    return lr * examples / (scale + lr) if scale + lr else math.inf


def lr_at(scale: float, batch_size: float, examples: int, momentum: float = 0.0) -> float:
    """The rate at which a batch size has this noise scale."""
    return scale / noise_scale(1.0, batch_size, examples, momentum)


def default_max_batch(plan: Plan, examples: int) -> int:
    """A tenth of the data, or the plan's own largest batch where that is more.

    Larger batches are so few in an epoch that a schedule has hardly a step in it.
    """
    return max(examples // 10, *plan.batch_size)


def as_batch_size(plan: Plan, examples: int, max_batch: int) -> Plan:
    """The rate's decay as a growing batch, at the same noise scale after the same examples.

    A rate that is as high as any before it is left as it is, so a warm-up stays. Below that, the
    highest rate so far is kept and the batch grows. From `max_batch` on, and where the whole batch
    next to the right size is more than 1 % off, the rate makes up for the rest.
    """
    highest = [*itertools.accumulate(plan.lr, max)]

    def choose(step: int) -> tuple[float, int]:
        if plan.lr[step] == highest[step]:
            return plan.lr[step], plan.batch_size[step]
        scale = noise_scale(plan.lr[step], plan.batch_size[step], examples, plan.momentum)
        return _fitted(scale, highest[step], examples, plan.momentum, max_batch)

    return _over_the_same_examples(plan, choose, plan.momentum)


def as_linear_scaling(plan: Plan, batch_size: int, examples: int | None) -> Plan:
    """Another batch size, with the rate of the same noise scale: ηB₂/B for small batches.

    Without `examples`, which says how small they are, the rate is ηB₂/B.
    """

    def choose(step: int) -> tuple[float, int]:
        lr, own = plan.lr[step], plan.batch_size[step]
        if examples is None:
            return lr * batch_size / own, batch_size
        scale = noise_scale(lr, own, examples, plan.momentum)
        return lr_at(scale, batch_size, examples, plan.momentum), batch_size

    return _over_the_same_examples(plan, choose, plan.momentum)


def as_momentum(plan: Plan, momentum: float, examples: int, max_batch: int) -> Plan:
    """Another momentum, with the batch size of the same noise scale: B(1−m)/(1−m₂)."""

    def choose(step: int) -> tuple[float, int]:
        at_rate_1 = noise_scale(1.0, plan.batch_size[step], examples, plan.momentum)
        lr, batch = _fitted(at_rate_1, 1.0, examples, momentum, max_batch)
        return plan.lr[step] * lr, batch

    return _over_the_same_examples(plan, choose, momentum)


def _fitted(
    scale: float, lr: float, examples: int, momentum: float, max_batch: int
) -> tuple[float, int]:
    """A rate and a whole batch of this noise scale: `lr` where rounding is within 1 %."""
    wanted = min(batch_size_at(scale, lr, examples, momentum), max_batch)
    batch = max(1, round(wanted))
    found = noise_scale(lr, batch, examples, momentum)
    if abs(found - scale) <= _CLOSE * scale:
        return lr, batch
    return lr_at(scale, batch, examples, momentum), batch


def _over_the_same_examples(
    plan: Plan, choose: Callable[[int], tuple[float, int]], momentum: float
) -> Plan:
    """Updates that see as many examples as the plan's; `choose` is given the plan's step there.

    The last one may see a few more.
    """
    ends = [*itertools.accumulate(plan.batch_size)]
    seen, rates, batches = 0, [], []
    while seen < ends[-1]:
        lr, batch = choose(bisect_right(ends, seen))
        rates.append(lr)
        batches.append(batch)
        seen += batch
    return Plan(rates, batches, momentum)
