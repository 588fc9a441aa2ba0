"""Keskar's ε-sharpness: how much the loss can rise within a small box."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.statuses import Status
from sharpcli.errors import UsageError, counted, setting
from sharpcli.linalg.box import BoxMaximum, corner_ascent
from sharpcli.measures.box import Box
from sharpcli.measures.box_search import Search, Searches, maxima
from sharpcli.measures.context import Context
from sharpcli.measures.measure import marked
from sharpcli.measures.sampling import Sampled
from sharpcli.measures.subspace import FullSpace, RandomSubspace, Space
from sharpcli.objective.checks import SMALLEST_SOUND
from sharpcli.objective.means import mean_of, moments
from sharpcli.objective.reliability import sampling_status
from sharpcli.objective.shards import SHARDS, shard_indices, shards, share_left

__all__ = ["epsilon_sharpness", "sharpness", "vanished"]

# Maximisers that differ by more than this share have not both converged.
_DISAGREEMENT = 0.1
# Steps of the ascents on halves, which start near a maximum.
_HALF_STEPS = 8
# A rise of this many roundings of the loss is accurate to a few per cent.
_ROUNDINGS = 32
# A share of 1 + L that float32 resolves to 1e-4: a GPU need not confirm it in float64, which is
# slow on many GPUs.
_PLAIN_RISE = 1e-3


def epsilon_sharpness(context: Context) -> dict[str, Any]:
    """φ = 100·(max_{z∈C_ε} L(θ+Az) − L(θ))/(1 + L(θ)), C_ε = {z: |zᵢ| ≤ ε(|(A⁺θ)ᵢ| + 1)}.

    A = I, or n×p with standard normal columns; then φ is the mean over several draws of A, and its
    error is the standard error of that mean. The maximum is only bounded from below: the largest
    loss found counts, evaluated in float64 if the model supports it, and each maximiser's is
    reported. Both maximisers work on the scaled problem u = z/(ε(|A⁺θ| + 1)) ∈ [−1, 1]ᵖ, L-BFGS
    with log L as objective, so that a loss near zero does not stall it. `raw` is SciPy's L-BFGS-B
    on the unscaled problem. Up to 20 dimensions of a small network all corners are evaluated, and
    `corners` is their number. φ is not invariant to rescaling. On a subset the sampling error is
    that of the losses at the maximum found, and the sampling bias is what choosing that maximum on
    the subset adds.

    Cost: one gradient an evaluation; for each ε (and draw) 10 to 20 (lbfgsb) and about 40 (corner),
    30 more for each factor of ten that ε is above 1e-3; many more if they cost next to nothing. The
    sampling error and bias cost about 8 gradients more.
    Source: Keskar et al. 2017, metric 2.1.
    """
    entries, searches = [], Searches(context)
    for dimensions in context.settings.subspaces:
        if context.part and dimensions is not None and dimensions > context.objective.size:
            continue  # a layer with fewer parameters has no such subspace
        draws = 1 if dimensions is None else context.settings.draws
        found: dict[float, list[_Found]] = {each: [] for each in context.settings.epsilons}
        for draw in range(draws):
            space = _space(context, dimensions, draw)
            for epsilon, runs in found.items():
                runs.append(_one(searches, space, epsilon))
        entries += [_entry(context, dimensions, epsilon, runs) for epsilon, runs in found.items()]
    return {"epsilon_sharpness": entries}


def vanished(entries: list[dict[str, Any]], split: str | None, advice: str) -> Any:
    """Mark the entries whose box does not reach points where the loss is large enough."""
    return [
        marked(entry, split, f"{advice}, or take larger {setting('epsilons')}")
        if entry["loss_at_maximum"] < SMALLEST_SOUND
        else entry
        for entry in entries
    ]


def sharpness(maximum: float, loss: float) -> float:
    """100·(maximum − loss)/(1 + loss); meaningless (NaN) if the loss is −1 or less."""
    return 100 * (maximum - loss) / (1 + loss) if loss > -1 else math.nan


def _space(context: Context, dimensions: int | None, draw: int = 0) -> Space:
    if dimensions is None:
        return FullSpace()
    if dimensions > context.objective.size:
        raise UsageError(
            f"{setting('subspaces', dimensions)}: the model has only "
            f"{counted(context.objective.size, 'parameter')}",
            "a subspace cannot have more dimensions than the model has parameters",
        )
    return RandomSubspace(context.theta, dimensions, context.seed, draw)


@dataclass(frozen=True)
class _Found:
    """The result for one box: φ and the largest loss by maximiser, and the cost."""

    loss: float
    losses: dict[str, float]
    evaluations: int
    corners: int | None
    resolved: bool
    sampled: Sampled
    sampling_bias: float | None
    seconds: float = 0.0

    @property
    def maximum(self) -> float:
        return max(self.losses.values())

    @property
    def value(self) -> float:
        return sharpness(self.maximum, self.loss)


def _one(searches: Searches, space: Space, epsilon: float) -> _Found:
    """Search one box; again in float64 if the first search did not resolve the rise."""
    started = time.perf_counter()
    search = searches.of(space, epsilon)
    found = _searched(searches, search, space, epsilon)
    if not found.resolved and (wider := searches.instead_of(search)) is not None:
        again = _searched(searches, wider, space, epsilon)
        found = replace(again, evaluations=again.evaluations + found.evaluations)
    return replace(found, seconds=time.perf_counter() - started)


def _searched(searches: Searches, search: Search, space: Space, epsilon: float) -> _Found:
    context = search.context
    box = Box(context.theta, space, epsilon)
    loss, _ = context.value_and_gradient
    points, corners = maxima(search, box)
    at_theta, losses, resolved = _confirmed(searches, search, box, points)
    best = points[max(points, key=lambda name: losses[name])].point
    sampled = _sampling_error(context, box.shift(best), loss)
    bias = _selection_bias(context, box, best)
    if sampled.error is not None and bias is not None:
        # Between halves the loss may change with their slopes or with their curvature, which makes
        # the bias up to twice as large, as on digits.
        sampled = replace(sampled, error=math.hypot(sampled.error, bias))
    evaluations = sum(found.evaluations for found in points.values())
    context.synchronize()
    return _Found(at_theta, losses, evaluations, corners, resolved, sampled, bias)


def _entry(
    context: Context, dimensions: int | None, epsilon: float, runs: Sequence[_Found]
) -> dict[str, Any]:
    """A document's entry for one ε and subspace: the mean over the draws of A."""
    values = [found.value for found in runs]
    by_name = {
        name: statistics.fmean(sharpness(found.losses[name], found.loss) for found in runs)
        for name in runs[0].losses
    }
    low, high = min(by_name.values()), max(by_name.values())
    where = f"ε={epsilon:g}" + (f", p={dimensions}" if dimensions else "")
    if high - low > _DISAGREEMENT * abs(high):
        by = ", ".join(f"{name} {value:.4g}" for name, value in by_name.items())
        context.warnings.append(
            f"the maximisers of ε-sharpness ({where}) differ by more than 10 %: {by}; say which "
            "one you used when you quote φ"
        )
    if not runs[0].loss > -1:
        context.warnings.append(
            f"φ ({where}) has no value: it divides by 1 + L, and the loss is {runs[0].loss:.4g}; "
            "add a constant to loss()"
        )
    several, resolved = len(runs) > 1, all(found.resolved for found in runs)
    error, bias = (
        statistics.fmean(known) if (known := [x for x in each if x is not None]) else None
        for each in (
            [found.sampled.error for found in runs],
            [found.sampling_bias for found in runs],
        )
    )
    by_shard = [found.sampled.shards for found in runs if found.sampled.shards]
    scalar = Scalar(
        statistics.fmean(values),
        statistics.stdev(values) / math.sqrt(len(values)) if several else None,
        "standard_error" if several else "lower_bound",
        Status.LOWER_BOUND if resolved else Status.PRECISION,
        advice=None if resolved else _advice(context.objective.network.compute),
        sampling_error=error,
        sampling_bias=bias,
        sampling_status=next((f.sampled.status for f in runs if f.sampled.status), None),
        shards=[statistics.fmean(each) for each in zip(*by_shard, strict=True)] or None,
    )
    if error is not None and bias is not None and bias > error / 2 and not context.part:
        rows = context.objective.rows
        context.warnings.append(
            f"φ ({where}) of {counted(rows.count, 'example')} is about {bias:.2g} higher "
            f"than that of all "
            f"{rows.total}: a maximum fits the examples that it was sought on; take more "
            f"{setting('samples')}"
        )
    return {
        "epsilon": epsilon,
        "subspace": dimensions,
        **scalar_fields(scalar),
        **({"draws": values} if dimensions else {}),
        "by_maximizer": by_name,
        "evaluations": sum(found.evaluations for found in runs),
        "corners": runs[0].corners,
        "loss": runs[0].loss,
        "loss_at_maximum": statistics.fmean(found.maximum for found in runs),
        "seconds": sum(found.seconds for found in runs),
    }


def _advice(dtype: torch.dtype) -> str:
    if dtype == torch.float64:
        return f"the loss rises by no more than its rounding: use larger {setting('epsilons')}"
    name = str(dtype).removeprefix("torch.")
    return (
        f"{name} does not resolve how the loss rises in this box: use {setting('dtype', 'float64')}"
    )


def _confirmed(
    searches: Searches, search: Search, box: Box, points: dict[str, BoxMaximum]
) -> tuple[float, dict[str, float], bool]:
    """L(θ) and the maxima evaluated in float64, and whether the search resolved their difference.

    A search in a narrower dtype chooses its best point by rounded losses, and rounding may move θ +
    z out of the box. So the point is recomputed in float64, inside the box, together with both
    losses: the reported value never exceeds the maximum. Cost: a forward pass for each maximiser.
    """
    context = search.context
    loss, gradient = context.value_and_gradient
    found = {name: max(point.value, loss) for name, point in points.items()}
    rise = max(found.values()) - loss
    compute = context.objective.network.compute
    if compute == torch.float64:
        seen = max(rise, float((box.bound * box.space.pull(gradient)).abs().sum()))
        rounding = _ROUNDINGS * torch.finfo(compute).eps * abs(loss)
        return loss, found, rise > rounding or seen == 0
    on_cpu = context.theta.device.type == "cpu"
    double = searches.double if on_cpu or rise <= _PLAIN_RISE * (1 + abs(loss)) else None
    if double is None:
        rounding = _ROUNDINGS * torch.finfo(compute).eps * max(1.0, abs(loss))
        return loss, found, rise > rounding
    theta, objective = double.context.theta, double.context.objective
    box, at_theta = replace(box, theta=theta), double.loss
    for name, point in points.items():
        there = theta + box.shift(point.point.double().clamp(-1, 1))
        if box.space.dimensions is None:
            outside = (there - theta).abs() > box.bound
            there = torch.where(outside, torch.nextafter(there, theta), there)
        found[name] = max(objective.loss(there), at_theta)
    exact = max(found.values()) - at_theta
    return at_theta, found, exact > 0 and abs(rise - exact) <= _DISAGREEMENT * exact


def _sampling_error(context: Context, shift: Tensor, loss: float) -> Sampled:
    """Standard error of φ from the paired losses of each example at θ and at the maximum.

    By the envelope theorem the position of the maximum does not change φ to first order.
    """
    objective = context.objective
    rows = objective.rows
    if not rows.sampled or not loss > -1:
        return Sampled()
    base, weights = objective.per_example_losses(context.theta)
    moved, _ = objective.per_example_losses(context.theta + shift)
    maximum = float(moved.sum() / weights.sum())
    change = (moved - maximum * weights) / (1 + loss)
    change -= (base - loss * weights) * (1 + maximum) / (1 + loss) ** 2
    found = mean_of(moments(100 * change, weights).tolist(), rows.total, sampled=True)
    status = sampling_status(rows.doubt, found.carriers)
    if rows.count < 2 * SHARDS:
        return Sampled(found.sampling_error, status)
    by_shard = [change[each].sum() for each in shard_indices(rows.count, context.seed)]
    value = sharpness(maximum, loss)
    values = [value + float(100 * SHARDS * each / weights.sum()) for each in by_shard]
    return Sampled(found.sampling_error, status, values)


def _selection_bias(context: Context, box: Box, point: Tensor) -> float | None:
    """How much higher a subset's φ is than that of all data, because the maximum fits the subset.

    Each half of the subset gets its own maximum, by ascents from the centre and from the maximum
    found. The excess of the halves' losses at their own maxima over those at each other's is, to
    second order, twice the bias of a half's φ. The bias is inversely proportional to the number of
    examples, and 0 if all are measured. Cost: about 8 gradients and two passes.
    """
    rows = context.objective.rows
    if not rows.sampled or rows.count < 2 or not context.value_and_gradient[0] > -1:
        return None
    loss, points = context.value_and_gradient[0], []
    own = list(shards(context.objective, context.seed, 2))
    for half in own:
        function, start = box.scaled(half, half.gradient(context.theta))
        found = corner_ascent(function, *start, starts=[point.sign()], iterations=_HALF_STEPS)
        points.append(context.theta + box.shift(found.point))
    higher = sum(
        half.loss(mine) - half.loss(other)
        for half, mine, other in zip(own, points, points[::-1], strict=True)
    )
    return max(0.0, 100 * higher / 8 / (1 + loss) * share_left(context.objective))
