"""Loss and metrics of every split at weighted sums of anchors: the one evaluator of landscapes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from ..moments import Mean, mean_of
from ..network import Network, exact_arithmetic
from ..objective import Objective, accumulator
from ..settings import BatchNormMode
from .batch_norm import batch_statistics
from .frame import weighted_sum

__all__ = ["Anchors", "BatchNorm", "Surface", "Values"]

Values = dict[str, dict[str, Mean]]
"""What is found at one point: split → "loss" or a metric's name → its mean."""

# Points that go at once where that is faster, and the gain over one by one that it takes: below,
# timing noise would decide how sums are rounded.
_TOGETHER = 16
_CLEAR_GAIN = 1.5


@dataclass(frozen=True)
class Anchors:
    """What points are weighted sums of: θ (K, n), and the buffers of those that are checkpoints.

    `fixed` holds None for directions, whose buffers nothing is added of.
    """

    theta: Tensor
    fixed: Sequence[Mapping[str, Tensor] | None]

    def buffers(self, weights: Tensor) -> dict[str, Tensor]:
        """Buffers and frozen parameters at the point: floats summed, integers the first anchor's.

        A variance that extrapolation makes negative becomes 0.
        """
        pairs = zip(self.fixed, weights.tolist(), strict=True)
        parts = [(own, weight) for own, weight in pairs if own is not None]
        first = parts[0][0]
        summed = {}
        for name, tensor in first.items():
            others = [own[name] for own, _ in parts[1:]]
            if not tensor.is_floating_point() or all(torch.equal(tensor, o) for o in others):
                summed[name] = tensor
                continue
            stacked = torch.stack([tensor, *others])
            total = weighted_sum(stacked, torch.tensor([w for _, w in parts]))
            summed[name] = total.clamp_min_(0) if name.endswith("running_var") else total
        return summed


@dataclass(frozen=True)
class BatchNorm:
    """How running statistics are found at each point; `rows` are the training examples for it."""

    mode: BatchNormMode
    rows: Objective

    def fixed(
        self, buffers: Mapping[str, Tensor], theta: Tensor, split: Objective
    ) -> Mapping[str, Tensor]:
        """The buffers with which a split is evaluated at θ."""
        if self.mode == "interpolate":
            return buffers
        if self.mode == "batch":
            return batch_statistics(split, theta, buffers, unbiased=False)
        return batch_statistics(self.rows, theta, buffers)


class Surface:
    """Evaluates points; `together` says how many go at once, found by timing on a GPU.

    On CPUs one by one was always faster: 1.1 to 1.6 times, from 64-64-64-10 on 355 examples to a
    LeNet on 1,000 (one and two threads).
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        batch_norm: BatchNorm | None = None,
        *,
        together: int | None = None,
    ) -> None:
        self.objectives, self.batch_norm = dict(objectives), batch_norm
        self.together = together
        self._names: dict[str, list[str]] = {}

    @property
    def network(self) -> Network:
        """The network that all splits share."""
        return next(iter(self.objectives.values())).network

    def at(self, anchors: Anchors, weights: Tensor) -> Values:
        """Loss and metrics of every split at one point. Cost: one forward pass a split.

        One wait for the device; batch-norm statistics cost a further forward pass.
        """
        theta = weighted_sum(anchors.theta, weights)
        buffers = anchors.buffers(weights)
        shared: Mapping[str, Tensor] | None = None
        found = []
        for name, objective in self.objectives.items():
            fixed: Mapping[str, Tensor] = buffers
            if self.batch_norm is not None and self.batch_norm.mode == "batch":
                fixed = self.batch_norm.fixed(buffers, theta, objective)
            elif self.batch_norm is not None:
                shared = shared or self.batch_norm.fixed(buffers, theta, objective)
                fixed = shared
            self._names[name], values = objective.moments(theta, fixed)
            found.append(values)
        return self._means(torch.cat(found).cpu())

    def each(
        self, anchors: Anchors, points: Sequence[Tensor]
    ) -> Iterator[tuple[int, list[Values]]]:
        """The values of all points in order, `(index of the first, values)` for those done at once.

        `points` holds each point's weights (K,).
        """
        if self.together is None:
            self.together = self._faster(anchors, points)
        for start in range(0, len(points), self.together):
            some = points[start : start + self.together]
            if self.together == 1:
                yield start, [self.at(anchors, some[0])]
            else:
                yield start, self._at_once(anchors, some)

    def _at_once(self, anchors: Anchors, points: Sequence[Tensor]) -> list[Values]:
        thetas = torch.stack([weighted_sum(anchors.theta, weights) for weights in points])
        parts = torch.split(thetas, self.network.sizes, dim=1)
        stacked = [
            part.reshape(len(points), *shape)
            for part, shape in zip(parts, self.network.shapes, strict=True)
        ]
        fixed = anchors.buffers(points[0])
        found = [
            objective.within_memory(lambda o=objective, n=name: self._sums(o, n, stacked, fixed))
            for name, objective in self.objectives.items()
        ]
        return [self._means(each) for each in torch.cat(found, dim=1).cpu()]

    def _sums(
        self, objective: Objective, split: str, stacked: list[Tensor], fixed: Mapping[str, Tensor]
    ) -> Tensor:
        """Moments (points, names, 6) of one split."""
        total = torch.zeros((), dtype=accumulator(stacked[0].device), device=stacked[0].device)
        with torch.no_grad(), exact_arithmetic():
            for batch, count in objective.batches():

                def of_one(
                    *parameters: Tensor, batch: object = batch, count: int = count
                ) -> Tensor:
                    names, values = objective.batch_moments(list(parameters), fixed, batch, count)
                    self._names[split] = names
                    return values

                total = total + vmap(of_one)(*stacked)
        return total

    def _means(self, values: Tensor) -> Values:
        """Split and name the moments (all splits' names, 6) of one point."""
        found: Values = {}
        rows = iter(values.tolist())
        for split, objective in self.objectives.items():
            of, total = objective.rows, objective.rows.total
            found[split] = {
                name: mean_of(next(rows), total, sampled=of.sampled) for name in self._names[split]
            }
        return found

    def _faster(self, anchors: Anchors, points: Sequence[Tensor]) -> int:
        """How many points at once are faster on this model and device, timed."""
        some = points[:_TOGETHER]
        same_buffers = anchors.buffers(some[0]) if some else {}
        moving = any(
            not torch.equal(tensor, same_buffers[name])
            for weights in some
            for name, tensor in anchors.buffers(weights).items()
        )
        alone = moving or self.batch_norm is not None or len(points) < 2 * _TOGETHER
        if self.network.device.type != "cuda" or alone:
            return 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a slow path of vmap's says so by a warning
                self._at_once(anchors, some)
                together = _seconds(lambda: self._at_once(anchors, some))
        except (RuntimeError, UserWarning):  # an operation that cannot be done for several at once
            return 1
        single = _seconds(lambda: [self.at(anchors, weights) for weights in some])
        return _TOGETHER if single > _CLEAR_GAIN * together else 1


def _seconds(work: Callable[[], object]) -> float:
    """The quicker of two runs; results come to the host, so the device is done."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
