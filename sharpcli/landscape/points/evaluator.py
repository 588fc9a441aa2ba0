"""Evaluate loss and metrics of every split at weighted sums of anchors."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from sharpcli.errors import SharpError
from sharpcli.landscape.frame import weighted_sum
from sharpcli.landscape.points.batch_norm import batch_normalised, batch_statistics
from sharpcli.landscape.points.first_layer import FirstLayers, first_layers
from sharpcli.landscape.points.joint_splits import joint_objective
from sharpcli.landscape.points.normalisations import Call
from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.loss_and_metrics import batch_moments
from sharpcli.objective.means import MOMENTS, Mean, mean_of
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Around, Objective
from sharpcli.objective.trees import equal_tensors
from sharpcli.runtime.processes import share
from sharpcli.settings.exploring import BatchNormMode

__all__ = ["Anchors", "BatchNorm", "Point", "Surface", "Values", "WeightsOf"]

Point = tuple[float, ...]
WeightsOf = Callable[[Point], Tensor]

Values = dict[str, dict[str, Mean]]
"""The values at one point: split → "loss" or a metric's name → its mean."""

# Points that are evaluated at once, and the speed-up that this requires: below it, timing noise
# would decide how sums are rounded.
_TOGETHER = 16
_CLEAR_GAIN = 1.5
# First layers are stored from this many points per anchor: each anchor costs about one point.
_SHARING = 4
_JOINT = "all splits"
_VARIANCE = "running_var"


@dataclass(frozen=True)
class Anchors:
    """The vectors θ (K, n) that points are weighted sums of, and the buffers of the checkpoints.

    `fixed` is None for directions, which have no buffers.
    """

    theta: Tensor
    fixed: Sequence[Mapping[str, Tensor] | None]

    def negative_variances(self, weights: Tensor) -> list[str]:
        """The names of variances that are negative at the point, and therefore set to 0."""
        pairs = [(own, w) for own, w in zip(self.fixed, weights.tolist(), strict=True) if own]
        own, _ = pairs[0]
        names = [name for name in own if name.endswith(_VARIANCE)]
        return [n for n in names if bool((sum(w * own[n] for own, w in pairs) < 0).any())]

    def buffers(self, weights: Tensor) -> dict[str, Tensor]:
        """Buffers and frozen parameters at the point: floats are summed by weight.

        Integers are those of the first anchor. A variance that would be negative becomes 0.
        """
        pairs = zip(self.fixed, weights.tolist(), strict=True)
        parts = [(own, weight) for own, weight in pairs if own is not None]
        first = parts[0][0]
        summed = {}
        for name, tensor in first.items():
            others = [own[name] for own, _ in parts[1:]]
            if not tensor.is_floating_point() or all(equal_tensors(tensor, o) for o in others):
                summed[name] = tensor
                continue
            stacked = torch.stack([tensor, *others])
            total = weighted_sum(stacked, torch.tensor([w for _, w in parts]))
            summed[name] = total.clamp_min_(0) if name.endswith(_VARIANCE) else total
        return summed


@dataclass(frozen=True)
class BatchNorm:
    """How running statistics are computed at each point; `rows` are the training examples.

    The `frozen` ones are interpolated like other buffers. `several` are the calls with more than
    one set of statistics in a batch.
    """

    mode: BatchNormMode
    rows: Objective
    frozen: Sequence[str] = ()
    several: Sequence[Call] = ()


class Surface:
    """Evaluates points; `together` is the number evaluated at once, chosen by timing on a GPU.

    On CPUs one at a time was always faster: 1.1 to 1.6 times, from 64-64-64-10 on 355 examples to a
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
        self.evaluations = 0  # of points
        self._names: dict[str, list[str]] = {}
        self._held: tuple[Anchors | None, dict[str, FirstLayers | None]] = (None, {})
        self._joint: Objective | None = None

    @property
    def network(self) -> Network:
        """The network that all splits share."""
        return next(iter(self.objectives.values())).network

    def at(self, anchors: Anchors, weights: Tensor) -> Values:
        """Loss and metrics of every split at one point.

        Cost: one forward pass over all splits, with one wait for the device; batch-norm statistics
        take another forward pass.
        """
        self.evaluations += 1
        found = []
        with self.network.arithmetic():  # once for all passes of the point
            theta, state = self._point(anchors, weights)
            for key, objective, parts in self._passes():
                fixed, entered = state(objective)
                around = _both(self._around(anchors, key, weights), entered)
                names, values = objective.moments(theta, fixed, around, parts)
                self._names |= dict.fromkeys(self.objectives if parts else [key], names)
                found.append(values)
        return self._means(torch.cat([each.reshape(-1) for each in found]).tolist())

    def _point(
        self, anchors: Anchors, weights: Tensor
    ) -> tuple[Tensor, Callable[[Objective], tuple[Mapping[str, Tensor], Around]]]:
        """θ (n,), and a function that returns a split's buffers and the context of each batch.

        Recalibrated statistics are computed once.
        """
        theta, buffers = weighted_sum(anchors.theta, weights), anchors.buffers(weights)
        norm = self.batch_norm
        if norm is not None and norm.mode == "batch":

            def of_batch(split: Objective) -> tuple[Mapping[str, Tensor], Around]:
                found, enter = batch_normalised(split, theta, buffers, frozen=norm.frozen)
                return found, lambda _, __: enter()

            return theta, of_batch
        same = self.buffers_of(next(iter(self.objectives.values())), theta, buffers)
        return theta, lambda _: (same, lambda _, __: contextlib.nullcontext())

    def place(self, anchors: Anchors, weights: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """θ (n,) and the buffers of the first split at one point, for products with its Hessian."""
        with self.network.arithmetic():
            split = next(iter(self.objectives.values()))
            theta, buffers = weighted_sum(anchors.theta, weights), anchors.buffers(weights)
            return theta, self.buffers_of(split, theta, buffers)

    def buffers_of(
        self, split: Objective, theta: Tensor, buffers: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """A split's buffers at θ, with running statistics by the mode of `batch_norm`."""
        norm = self.batch_norm
        if norm is None or norm.mode == "interpolate":
            return buffers
        if norm.mode == "batch":
            return batch_statistics(split, theta, buffers, unbiased=False, frozen=norm.frozen)
        return batch_statistics(norm.rows, theta, buffers, frozen=norm.frozen)

    def each(
        self, anchors: Anchors, points: Sequence[Point], weights: WeightsOf, done: Container[int]
    ) -> Iterator[tuple[int, list[Values]]]:
        """Yield the values of the points in order, by groups: `(index of the first, values)`.

        `weights` returns a point's weights (K,). Groups whose first index is in `done` are skipped.
        """
        self._prepare(anchors, len(points))
        if self.together is None:
            self.together = self.choose_together(anchors, points, weights)
        for start in range(0, len(points), self.together):
            if start in done:
                continue
            some = [weights(point) for point in points[start : start + self.together]]
            if self.together == 1:
                yield start, [self.at(anchors, some[0])]
            else:
                yield start, self._at_once(anchors, some)

    def _prepare(self, anchors: Anchors, points: int) -> None:
        """Prepare what points between these anchors share, if there are enough points."""
        if points < _SHARING * len(anchors.theta):
            self._held = (anchors, {})
            return
        if not (self.batch_norm and self.batch_norm.mode == "batch"):
            self._joint = self._joint or joint_objective(self.objectives, anchors.theta[0])
        held = {
            key: first_layers(objective, anchors.theta, anchors.fixed)
            for key, objective, _ in self._passes()
        }
        self._held = (anchors, held)

    def _passes(self) -> list[tuple[str, Objective, list[int] | None]]:
        """The forward passes of a point: a name, an objective, and the rows of each split."""
        if self._joint is None:
            return [(name, objective, None) for name, objective in self.objectives.items()]
        return [(_JOINT, self._joint, [each.rows.count for each in self.objectives.values()])]

    def _around(self, anchors: Anchors, key: str, weights: Tensor) -> Around:
        """The context for each batch of a pass at one point."""
        held = self._held[1].get(key) if self._held[0] is anchors else None
        if held is None:
            return lambda _, __: contextlib.nullcontext()
        return functools.partial(held.at, weights)

    def per_example(self, anchors: Anchors, weights: Tensor, split: str) -> tuple[Tensor, Tensor]:
        """Every example's loss sum and weight (N,) on one split at one point.

        A `SharpError` says that the task's loss returns one sum for a batch.
        """
        theta, state = self._point(anchors, weights)
        objective = self.objectives[split]
        return objective.per_example_losses(theta, *state(objective))

    def _at_once(self, anchors: Anchors, points: Sequence[Tensor]) -> list[Values]:
        self.evaluations += len(points)
        thetas = torch.stack([weighted_sum(anchors.theta, weights) for weights in points])
        parts = torch.split(thetas, self.network.sizes, dim=1)
        stacked = [
            part.reshape(len(points), *shape)
            for part, shape in zip(parts, self.network.shapes, strict=True)
        ]
        fixed = anchors.buffers(points[0])
        found = [
            self._sums(objective, name, stacked, fixed)
            for name, objective in self.objectives.items()
        ]
        return [self._means(each) for each in torch.cat(found, dim=1).tolist()]

    def _sums(
        self, objective: Objective, split: str, stacked: list[Tensor], fixed: Mapping[str, Tensor]
    ) -> Tensor:
        """Moments of one split, with one row per point (points, …)."""
        device = stacked[0].device
        total = torch.zeros((), dtype=accumulator(device), device=device)
        with torch.no_grad(), self.network.arithmetic():
            for batch, count in objective.batches():

                def of_one(
                    *parameters: Tensor, batch: object = batch, count: int = count
                ) -> Tensor:
                    names, values = batch_moments(
                        *(objective.network, list(parameters), fixed, batch, count),
                        squares=objective.rows.sampled,
                    )
                    self._names[split] = names
                    return values

                total = total + vmap(of_one)(*stacked)
        return objective.add_up(total).flatten(1)

    def _means(self, values: Sequence[float]) -> Values:
        """Means by split and name, from all moments of one point in a row."""
        found: Values = {}
        start = 0
        for split, objective in self.objectives.items():
            rows, names = objective.rows, self._names[split]
            width = MOMENTS if rows.sampled else 2
            found[split] = {
                name: mean_of(
                    values[start + i * width : start + (i + 1) * width],
                    rows.total,
                    sampled=rows.sampled,
                )
                for i, name in enumerate(names)
            }
            start += width * len(names)
        return found

    def choose_together(self, anchors: Anchors, points: Sequence[Point], weights: WeightsOf) -> int:
        """Choose by timing how many points to evaluate at once on this model and device."""
        if (
            self.network.device.type != "cuda"
            or self.batch_norm is not None
            or len(points) < 2 * _TOGETHER
        ):
            return 1
        some = [weights(point) for point in points[:_TOGETHER]]
        first = anchors.buffers(some[0])
        if any(first[name] is not t for each in some for name, t in anchors.buffers(each).items()):
            return 1  # buffers that differ from point to point
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # vmap warns if it takes a slow path
                self._at_once(anchors, some)
                together = _seconds(lambda: self._at_once(anchors, some))
        except (RuntimeError, UserWarning, SharpError):  # not possible for several at once
            return 1
        single = _seconds(lambda: [self.at(anchors, each) for each in some])
        return share(_TOGETHER if single > _CLEAR_GAIN * together else 1)


def _both(first: Around, second: Around) -> Around:
    @contextlib.contextmanager
    def entered(start: int, count: int) -> Iterator[None]:
        with first(start, count), second(start, count):
            yield

    return entered


def _seconds(work: Callable[[], object]) -> float:
    """The time of the faster of two runs; results are on the host, so the device is done."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
