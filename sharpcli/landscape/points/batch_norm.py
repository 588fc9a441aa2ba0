"""Compute a network's running statistics at a point between checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sharpcli.errors import SharpError, setting
from sharpcli.landscape.points.normalisations import Call, Given, Watch, each_by_itself
from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.objective import Objective

__all__ = ["EnoughError", "batch_normalised", "batch_statistics", "recalibration_rows"]

# Up to this many bytes of activations (counted as for a backward pass, so several times what is
# held at once), statistics are computed in one forward pass; beyond, by default, on as many
# examples as fit. A constant, not a share of free memory: the number of examples affects results.
_ONE_PASS_BYTES = 4 * 2**30


def recalibration_rows(train: Objective, asked: int | None, seed: int) -> Objective:
    """The training objective on the examples for the statistics.

    These are `asked` examples drawn by `seed`, or (None) as many as fit in one pass.
    """
    most = max(2, int(_ONE_PASS_BYTES / max(train.saved_bytes, 1))) if asked is None else asked
    if most >= train.rows.count:
        return train
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(train.rows.count, generator=generator)[:most].sort().values
    return Objective(
        train.network, train.rows.take(chosen), train.fixed, batch_size=min(most, train.batch_size)
    )


@dataclass(frozen=True)
class _Part:
    """Statistics of one call's input, over `count` values per channel, or `count` examples.

    The variance is the biased one of all values, or the mean of the examples' unbiased ones.
    """

    call: Call
    count: float
    mean: Tensor
    variance: Tensor

    def kept(self, *, unbiased: bool) -> Tensor:
        """The variance that PyTorch stores."""
        if self.call.instances or not unbiased:
            return self.variance
        return self.variance * (self.count / max(self.count - 1, 1))


def batch_statistics(
    objective: Objective,
    theta: Tensor,
    fixed: Mapping[str, Tensor],
    *,
    unbiased: bool = True,
    frozen: Collection[str] = (),
) -> dict[str, Tensor]:
    """Compute the running means and variances at θ over all of the objective's rows.

    They are those of one pass in training mode with all rows as one batch: each call normalises by
    the mean and (biased) variance of its own input. If a layer is called several times in a pass,
    the mean over its calls is stored, as with PyTorch's `momentum=None`; for an instance
    normalisation, the mean over the examples. If the rows do not fit in one pass, each call takes
    its own pass over batches, after the calls before it, so the batches do not affect the result.

    Args:
        objective: Its rows are the data.
        theta: The point θ (n,).
        fixed: The buffers and frozen parameters.
        unbiased: Store unbiased variances, as PyTorch does. With biased ones, evaluation gives the
            same outputs as the pass in training mode.
        frozen: Buffers that are used as they are.

    Returns:
        A copy of `fixed` with the new statistics.

    Cost: one forward pass, or one per call.
    """
    statistics = {name: tensor.clone() for name, tensor in fixed.items()}
    found = _parts(objective, theta, statistics, frozen)
    for call in dict.fromkeys(part.call for part in found):
        parts = [part for part in found if part.call == call]
        variances = [part.kept(unbiased=unbiased) for part in parts]
        statistics[call.mean].copy_(torch.stack([part.mean for part in parts]).mean(0))
        statistics[call.variance].copy_(torch.stack(variances).mean(0))
    return statistics


def batch_normalised(
    objective: Objective,
    theta: Tensor,
    fixed: Mapping[str, Tensor],
    *,
    frozen: Collection[str] = (),
) -> tuple[dict[str, Tensor], Callable[[], AbstractContextManager[Any]]]:
    """Return buffers, and a context for each batch in which a pass is as in training mode.

    All of the objective's rows then count as one batch, however they are split: each call uses the
    statistics of its input over all rows, and an instance normalisation those of each example.

    Cost: as for `batch_statistics`.
    """
    statistics = {name: tensor.clone() for name, tensor in fixed.items()}
    found = _parts(objective, theta, statistics, frozen)

    def enter() -> AbstractContextManager[Any]:
        following = iter(found)

        def see(call: Call, given: Given) -> Tensor | None:
            return None if call.mean in frozen else _normalised(call, given, next(following, None))

        return Watch(statistics, see)

    return statistics, enter


def _parts(
    objective: Objective, theta: Tensor, fixed: Mapping[str, Tensor], frozen: Collection[str]
) -> list[_Part]:
    """Each call's statistics over all rows, after the earlier calls are normalised by theirs."""
    network = objective.network
    whole = objective.saved_bytes * objective.rows.count <= _ONE_PASS_BYTES
    size = objective.rows.count if whole else objective.batch_size
    found: list[_Part] = []  # of the calls in their order
    pending: list[_Part] = []  # of the next one, from the batches so far
    place = 0

    def see(call: Call, given: Given) -> Tensor | None:
        nonlocal place
        if call.mean in frozen:
            return None
        place += 1
        if place > len(found):
            part = _statistics(call, given.input)
            if not whole:
                pending[:] = [_merged(pending[0], part) if pending else part]
                raise EnoughError
            found.append(part)
        return _normalised(call, given, found[place - 1])

    with torch.no_grad(), network.arithmetic(), Watch(fixed, see):
        done = False
        while not done:
            pending.clear()
            for batch in objective.rows.split(size):
                place, done = 0, False
                with suppress(EnoughError):
                    network.outputs(network.unflatten(theta), fixed, batch)
                    done = True
                    break  # all calls are known
            found += pending
    return found


class EnoughError(BaseException):
    """Ends a forward pass early; a `BaseException`, so that no task's code catches it."""


def _normalised(call: Call, given: Given, part: _Part | None) -> Tensor:
    """The call's output in training mode over all rows; `SharpError` for another call's `part`."""
    if part is None or part.call != call:
        raise SharpError(
            f"not every batch calls the normalisation of '{call.layer}' at the same place of the "
            "forward pass, so its statistics over all batches cannot be taken",
            f"use {setting('batch_norm.mode', 'interpolate')}, or fewer "
            f"{setting('batch_norm.examples')}, which fit in one batch",
        )
    if call.instances:
        return each_by_itself(given)
    mean, variance = part.mean.to(given.mean), part.variance.to(given.mean)
    return functional.batch_norm(
        given.input, mean, variance, given.weight, given.bias, False, 0.0, given.eps
    )


def _statistics(call: Call, values: Tensor) -> _Part:
    """The statistics of each channel (dimension 1), in float64 if the device has it."""
    kind = accumulator(values.device)
    if not call.instances:
        dimensions = [d for d in range(values.dim()) if d != 1]
        variance, mean = torch.var_mean(values, dimensions, correction=0)
        return _Part(call, values.numel() / values.shape[1], mean.to(kind), variance.to(kind))
    variance, mean = torch.var_mean(values.flatten(2), 2, correction=1)
    return _Part(call, len(values), mean.to(kind).mean(0), variance.to(kind).mean(0))


def _merged(left: _Part, right: _Part) -> _Part:
    """Merge the statistics of two groups (Chan, Golub & LeVeque 1983)."""
    m, n, apart = left.count, right.count, right.mean - left.mean
    total = m + n
    mean = left.mean + apart * (n / total)
    variance = (m * left.variance + n * right.variance) / total
    if not left.call.instances:
        variance = variance + apart.square() * (m * n / total**2)
    return replace(left, count=total, mean=mean, variance=variance)
