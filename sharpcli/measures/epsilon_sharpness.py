"""Keskar's ε-sharpness: how much the loss can rise within a small box."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.results import Scalar, scalar_fields
from sharpcli.documents.statuses import Status
from sharpcli.errors import SharpError, UsageError, counted, setting
from sharpcli.linalg.box import (
    BoxMaximum,
    ValueAndGradient,
    Values,
    best_corners,
    corner_ascent,
    flip_ascent,
    projected_lbfgs,
)
from sharpcli.measures.context import Context
from sharpcli.measures.double import in_double
from sharpcli.measures.sampling import Sampled, halves, part, share_left
from sharpcli.measures.subspace import FullSpace, RandomSubspace, Space
from sharpcli.objective.means import mean_of, moments
from sharpcli.objective.objective import Objective, accumulator
from sharpcli.objective.reliability import sampling_status
from sharpcli.runtime.memory import is_out_of_memory
from sharpcli.runtime.processes import add_up, rank, size
from sharpcli.runtime.randomness import own_generator

__all__ = ["epsilon_sharpness", "sharpness"]

# Maximisers that differ by more than this share have not both arrived.
_DISAGREEMENT = 0.1
# Where else than at the centre corner ascents start, found by trial on minima with losses from 1e-1
# to 1e-7: a power that evens out the examples' losses, and ascents on shards of the data.
_POWER = 0.1
_SHARDS, _SHARD_STEPS, _SHARD_STARTS = 8, 4, 3
# Steps of the ascents on halves: they start near a maximum.
_HALF_STEPS = 8
# All corners are evaluated up to this many dimensions, where that passes over at most so many bytes
# of activations: about three seconds of one CPU core, a part of one for one layer of many. Without
# `vmap` each is a call of its own.
_ALL_CORNERS, _ALL_BYTES, _LAYER_BYTES, _ALL_CALLS = 20, 2**31, 2**28, 2**12
# Activation bytes of corners that are evaluated at once: they stay in the cache.
_CHUNK_BYTES = 2**24
# Corners, and points inside the box, from which L-BFGS goes on where a pass costs next to nothing.
# The points are the best of so many random ones where all corners are evaluated; in more dimensions
# random points are all alike, and more than one of them bought 1 % on one network of thirteen.
_POLISHED, _SIFTED = 8, 1024
# A pass over so many bytes of activations costs next to nothing: more starts, while it lasts. In a
# usual box 8 came within 0.1 % of what 32 did.
_FREE_BYTES, _FREE_STARTS = 2**20, 8
# Random corners to start from for each factor of ten that ε is above the usual 1e-3, as many more
# where they cost next to nothing, and where the gradient is zero.
_STARTS_A_DECADE, _FREE_STARTS_A_DECADE, _STATIONARY_STARTS = 8, 32, 4
# A box of fewer units in the last place than this is searched in float64.
_RESOLVED = 16
# A rise that is this many roundings of the loss is known to a few per cent.
_ROUNDINGS = 32
# A share of 1 + L that float32 resolves to 1e-4: a GPU need not confirm it in float64, which many
# are slow at.
_PLAIN_RISE = 1e-3


def epsilon_sharpness(context: Context) -> dict[str, Any]:
    """φ = 100·(max_{z∈C_ε} L(θ+Az) − L(θ))/(1 + L(θ)), C_ε = {z: |zᵢ| ≤ ε(|(A⁺θ)ᵢ| + 1)}.

    A = I, or n×p with standard normal columns: then φ is the mean over several draws of A, and its
    error the standard error of that mean. Keskar et al. 2017, metric 2.1. The maximum is only ever
    bounded from below: the largest loss found counts, evaluated in float64 where the model allows,
    and each maximiser's is given. Both work on the scaled problem u = z/(ε(|A⁺θ| + 1)) ∈ [−1, 1]ᵖ,
    L-BFGS with log L as objective, so that a loss near zero does not stall it; `raw` is SciPy's
    L-BFGS-B on the problem as it is written. Up to 20 dimensions of a small network all corners are
    evaluated, and `corners` says how many. Cost: one gradient an evaluation; for each ε (and draw)
    10 to 20 (lbfgsb) and about 40 (corner), 30 more for each factor of ten that ε is above 1e-3;
    many more where they cost next to nothing. Not invariant to rescaling. Where a subset was
    measured, the sampling error is that of the losses at the maximum found, and the sampling bias
    what choosing that maximum by the subset adds. Both cost about 8 gradients more.
    """
    entries, searches = [], _Searches(context)
    for dimensions in context.settings.subspaces:
        draws = 1 if dimensions is None else context.settings.draws
        found: dict[float, list[_Found]] = {each: [] for each in context.settings.epsilons}
        for draw in range(draws):
            space = _space(context, dimensions, draw)
            for epsilon, runs in found.items():
                runs.append(_one(searches, space, epsilon))
        entries += [_entry(context, dimensions, epsilon, runs) for epsilon, runs in found.items()]
    return {"epsilon_sharpness": entries}


def sharpness(maximum: float, loss: float) -> float:
    """100·(maximum − loss)/(1 + loss), which means nothing (NaN) where the loss is −1 or less."""
    return 100 * (maximum - loss) / (1 + loss) if loss > -1 else math.nan


def _space(context: Context, dimensions: int | None, draw: int = 0) -> Space:
    if dimensions is None:
        return FullSpace()
    if dimensions > context.objective.size:
        raise UsageError(
            f"{setting('subspaces', dimensions)}: the model has only "
            f"{counted(context.objective.size, 'parameter')}",
            "a subspace has as many dimensions at most",
        )
    return RandomSubspace(context.theta, dimensions, context.seed, draw)


@dataclass(frozen=True)
class _Found:
    """What was found in one box: φ and the largest loss by maximiser, and what it cost."""

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


def _one(searches: _Searches, space: Space, epsilon: float) -> _Found:
    """Search one box; once more in float64 where the search could not see what it sought."""
    started = time.perf_counter()
    search = searches.of(space, epsilon)
    found = _searched(searches, search, space, epsilon)
    if not found.resolved and (wider := searches.instead_of(search)) is not None:
        again = _searched(searches, wider, space, epsilon)
        found = replace(again, evaluations=again.evaluations + found.evaluations)
    return replace(found, seconds=time.perf_counter() - started)


def _searched(searches: _Searches, search: _Search, space: Space, epsilon: float) -> _Found:
    context = search.context
    bound = epsilon * (space.coordinates(context.theta).abs() + 1)
    loss, _ = context.value_and_gradient
    points, corners = _maxima(search, space, bound, epsilon)
    at_theta, losses, resolved = _confirmed(searches, search, space, epsilon, points)
    best = points[max(points, key=lambda name: losses[name])].point
    sampled = _sampling_error(context, space.lift(bound * best), loss)
    bias = _selection_bias(context, space, bound, best)
    if sampled.error is not None and bias is not None:
        # Between halves the loss may change with their slopes or with their curvature, which makes
        # the bias up to twice as large: on digits it was.
        sampled = replace(sampled, error=math.hypot(sampled.error, bias))
    evaluations = sum(found.evaluations for found in points.values())
    context.synchronize()
    return _Found(at_theta, losses, evaluations, corners, resolved, sampled, bias)


def _entry(
    context: Context, dimensions: int | None, epsilon: float, runs: Sequence[_Found]
) -> dict[str, Any]:
    """What a document says of one ε and subspace: the mean over the draws of A."""
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
            "one was used when you quote φ"
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
    scalar = Scalar(
        statistics.fmean(values),
        statistics.stdev(values) / math.sqrt(len(values)) if several else None,
        "standard_error" if several else "lower_bound",
        Status.LOWER_BOUND if resolved else Status.PRECISION,
        advice=None if resolved else _advice(context.objective.network.compute),
        sampling_error=error,
        sampling_bias=bias,
        sampling_status=next((f.sampled.status for f in runs if f.sampled.status), None),
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
        return f"the loss rises by no more than its rounding: use a larger {setting('epsilons')}"
    name = str(dtype).removeprefix("torch.")
    return (
        f"{name} does not resolve how the loss rises in this box: use {setting('dtype', 'float64')}"
    )


class _Searches:
    """The run's own search and, where a box asks for it, one in float64."""

    def __init__(self, context: Context) -> None:
        self.own = _Search(context)

    @cached_property
    def double(self) -> _Search | None:
        """The search in float64: of the same objective, None where the model has no float64."""
        context = self.own.context
        objective = in_double(context.objective, context.theta)
        if objective is None or objective is context.objective:
            return None if objective is None else self.own
        return _Search(replace(context, objective=objective, theta=context.theta.double()))

    def of(self, space: Space, epsilon: float) -> _Search:
        """The search for this box: in float64 where it is cheap, or the box is narrow."""
        own = self.own
        dimensions = space.dimensions or own.context.objective.size
        small = dimensions <= _ALL_CORNERS and own.bytes_a_pass <= _FREE_BYTES
        narrow = epsilon < _RESOLVED * torch.finfo(own.context.theta.dtype).eps
        return (self.double if small or narrow else None) or own

    def instead_of(self, search: _Search) -> _Search | None:
        """The search in float64, where float32 did not do.

        Narrower dtypes are chosen for speed, which float64 would take away.
        """
        compute = search.context.objective.network.compute
        return self.double if compute == torch.float32 else None


class _Search:
    """One objective, and what ascents in all boxes around its θ have in common."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.evaluations = 0

    @cached_property
    def loss(self) -> float:
        """L(θ). Cost: a forward pass."""
        return self.context.objective.loss(self.context.theta)

    @cached_property
    def even(self) -> Tensor:
        """The gradient of the mean of ℓ^q (n,). Cost: one gradient."""
        self.evaluations += 1
        return self.context.objective.gradient(self.context.theta, power=_POWER)[1]

    @cached_property
    def shards(self) -> dict[int, tuple[Objective, tuple[float, Tensor]]]:
        """The shards that are this process's own, by number: each with its loss and its gradient.

        Cost: one gradient in all.
        """
        context, generator = self.context, torch.Generator().manual_seed(self.context.seed)
        self.evaluations += 1
        order = torch.randperm(context.objective.rows.count, generator=generator)
        own = {
            number: part(context.objective, indices, alone=True)
            for number, indices in enumerate(order.chunk(_SHARDS))
            if number % size() == rank()
        }
        return {number: (shard, shard.gradient(context.theta)) for number, shard in own.items()}

    @cached_property
    def bytes_a_pass(self) -> int:
        """Bytes that one pass over the data saves or reads: what it costs, but for the overhead."""
        objective = self.context.objective
        return int(objective.rows.count * max(objective.saved_bytes, 32)) + 8 * objective.size

    @cached_property
    def batched(self) -> bool:
        """Whether many losses can be had at once: `vmap` takes the model, and gives its losses."""
        objective, theta = self.context.objective, self.context.theta
        step = 1 + 2**-6 * torch.arange(2, device=theta.device).to(theta)
        pair = theta * step[:, None]
        try:
            together = objective.losses(pair).tolist()
        except (RuntimeError, TypeError, ValueError, SharpError) as error:
            # What vmap raises for models that it cannot batch, as it is or as the failure of the
            # task's function that it ran. One by one the losses are as right.
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            return False
        alone = [objective.loss(each) for each in pair]
        limit = 1e3 * torch.finfo(theta.dtype).eps
        return all(
            abs(a - b) <= limit * max(abs(a), abs(b), 1e-300)
            for a, b in zip(together, alone, strict=True)
        )

    @property
    def chunk(self) -> int:
        """Points whose losses are computed at once."""
        return max(1, min(4096, _CHUNK_BYTES // self.bytes_a_pass))

    def values(self, space: Space, bound: Tensor) -> Values:
        """L at many points u of the box [−1, 1]ᵖ."""
        objective, theta = self.context.objective, self.context.theta

        def values(points: Tensor) -> Tensor:
            thetas = theta + space.lift(bound * points)
            if self.batched:
                return objective.losses(thetas)
            alone = [objective.loss(each) for each in thetas]
            return torch.tensor(alone, dtype=accumulator(theta.device), device=theta.device)

        return values


def _maxima(
    search: _Search, space: Space, bound: Tensor, epsilon: float
) -> tuple[dict[str, BoxMaximum], int | None]:
    """The best point by each maximiser, and how many corners were evaluated where all of them."""
    chosen = search.context.settings.maximizer
    names = ["lbfgsb", "corner"] if chosen == "both" else [chosen]
    found, tops, corners = {}, list[Tensor](), None
    if "corner" in names:
        if _all_corners(search, bound):
            corners = 2 ** len(bound)
            found["corner"], tops = _every_corner(search, space, bound)
        else:
            found["corner"] = _corner(search, space, bound, epsilon)
            tops = [found["corner"].point]
    if "lbfgsb" in names:
        found["lbfgsb"] = _lbfgsb(search, space, bound, epsilon, tops)
    if "raw" in names:
        found["raw"] = _raw(search.context, space, bound)
    return {name: found[name] for name in names}, corners


def _all_corners(search: _Search, bound: Tensor) -> bool:
    """Whether all corners of a box can be evaluated in a few seconds."""
    most = _LAYER_BYTES if search.context.part else _ALL_BYTES
    if len(bound) > _ALL_CORNERS or search.bytes_a_pass << len(bound) > most:
        return False
    return search.batched or 2 ** len(bound) <= _ALL_CALLS


def _every_corner(search: _Search, space: Space, bound: Tensor) -> tuple[BoxMaximum, list[Tensor]]:
    """The best of all corners and of the centre, and the corners that are nearly as good."""
    context = search.context
    tops = best_corners(
        search.values(space, bound),
        bound,
        keep=_POLISHED,
        chunk=search.chunk,
        progress=context.progress,
    )
    loss = context.value_and_gradient[0]
    centre = BoxMaximum(loss, torch.zeros_like(bound), 0)
    best = tops[0] if tops and tops[0].value > loss else centre
    return BoxMaximum(best.value, best.point, 0), [top.point for top in tops]


def _lbfgsb(
    search: _Search, space: Space, bound: Tensor, epsilon: float, tops: Sequence[Tensor]
) -> BoxMaximum:
    """L-BFGS from the centre; from other points too where the box is large, or passes are cheap.

    The best corners (`tops`) are where a maximum on a face of the box is near.
    """
    context = search.context
    function, start = _scaled(context, context.objective, context.value_and_gradient, space, bound)
    iterations, progress = context.settings.iterations, context.progress
    found = [projected_lbfgs(function, *start, iterations=iterations, progress=progress)]
    free = _free_starts(search, epsilon)
    extra = min(free, _POLISHED)
    corners = extra or (1 if _decades(epsilon) else 0)
    points = [*tops[:corners], *_inside(search, space, bound, extra)]
    for point in points:
        value, gradient = function(point)
        if math.isfinite(value):
            climbed = projected_lbfgs(function, value, gradient, start=point, iterations=iterations)
            found.append(replace(climbed, evaluations=climbed.evaluations + 1))
    best = max(found, key=lambda each: each.value)
    total = BoxMaximum(best.value, best.point, sum(each.evaluations for each in found))
    return _with_loss(total, context.value_and_gradient[0])


def _inside(search: _Search, space: Space, bound: Tensor, count: int) -> Tensor:
    """Up to `count` points inside the box to start from, the best of many where they are cheap."""
    if not count:
        return bound[:0, None]
    sifted = search.batched and _all_corners(search, bound)
    generator = own_generator("points of a box", search.context.seed)
    points = 2 * torch.rand(_SIFTED if sifted else 1, len(bound), generator=generator) - 1
    points = points.to(bound)
    if not sifted:
        return points
    values = search.values(space, bound)
    found = torch.cat([values(part) for part in torch.split(points, search.chunk)])
    return points[found.nan_to_num(-math.inf, -math.inf, -math.inf).topk(count).indices]


def _corner(search: _Search, space: Space, bound: Tensor, epsilon: float) -> BoxMaximum:
    context = search.context
    function, start = _plain(context, context.objective, context.value_and_gradient, space, bound)
    starts, spent = _starts(search, space, bound)
    stationary = not bool(start[1].any())
    count = round(_STARTS_A_DECADE * _decades(epsilon)) + _free_starts(search, epsilon)
    count = max(count, _STATIONARY_STARTS if stationary else 0)
    generator = own_generator("corners of a box", context.seed)
    starts = [_filled(each, generator) for each in starts]
    starts += [_filled(torch.zeros_like(bound), generator) for _ in range(count)]
    found = corner_ascent(
        function,
        *start,
        starts=starts,
        iterations=context.settings.iterations,
        progress=context.progress,
    )
    if _flips_are_cheap(search, bound) and bool(found.point.any()):
        values = search.values(space, bound)
        flipped = flip_ascent(values, replace(found, evaluations=0), chunk=search.chunk)
        found = replace(flipped, evaluations=found.evaluations)
    return replace(found, evaluations=found.evaluations + spent)


def _filled(corner: Tensor, generator: torch.Generator) -> Tensor:
    """A corner with random signs where it has none: the gradient is zero there, or not a number.

    Where the loss is convex, a random corner is higher than the middle of the box on average.
    """
    signs = 2 * torch.randint(0, 2, corner.shape, generator=generator, dtype=torch.int8) - 1
    return torch.where(corner.abs() > 0, corner, signs.to(corner)).to(torch.int8)


def _decades(epsilon: float) -> float:
    """How many factors of ten ε is above the usual ones, 0 where it is not far above 1e-3."""
    return max(0.0, math.log10(epsilon / 1e-3) - 0.5)


def _free_starts(search: _Search, epsilon: float) -> int:
    """How many more starts cost next to nothing, as a pass does; more in a larger box."""
    free = round(_FREE_STARTS + _FREE_STARTS_A_DECADE * _decades(epsilon))
    return min(free, _FREE_BYTES // search.bytes_a_pass)


def _flips_are_cheap(search: _Search, bound: Tensor) -> bool:
    return len(bound) * search.bytes_a_pass <= _CHUNK_BYTES and search.batched


def _starts(search: _Search, space: Space, bound: Tensor) -> tuple[list[Tensor], int]:
    """Corners from which other examples' losses rise than those that are largest at θ.

    Near a minimum the gradient is that of a few examples, and the ascent from the centre ends on
    them; the highest corner often belongs to others. One start weighs examples more evenly (ℓ^q),
    and the best of eight ascents on an eighth of the data each let others come forward. Gives the
    starts, and what they cost in gradients over all the data.
    """
    context, before, starts = search.context, search.evaluations, []
    if context.value_and_gradient[0] > 0:
        starts.append(space.pull(search.even).sign())
    rows = context.objective.rows
    if rows.count < 2 * _SHARDS or rows.fixed_batch is not None:  # a part has other batches
        return starts, search.evaluations - before
    found, climbed = _shard_corners(search, space, bound)
    return starts + found, search.evaluations - before + climbed


def _shard_corners(search: _Search, space: Space, bound: Tensor) -> tuple[list[Tensor], int]:
    """The best corners of ascents on shards, and what they cost in gradients over all the data.

    Of several processes each climbs on shards of its own: a pass over a shard is too short to be
    divided.
    """
    context, climbed = search.context, {}
    told = torch.zeros(_SHARDS, 2, dtype=accumulator(context.theta.device))
    for number, (shard, at_theta) in search.shards.items():
        function, start = _plain(context, shard, at_theta, space, bound)
        climbed[number] = corner_ascent(function, *start, iterations=_SHARD_STEPS)
        told[number, 0] = climbed[number].value
        told[number, 1] = climbed[number].evaluations
    told = add_up(told.to(context.theta.device)).cpu()
    best = told[:, 0].argsort(descending=True, stable=True)[:_SHARD_STARTS].tolist()
    corners = torch.zeros(len(best), len(bound), dtype=torch.int8, device=bound.device)
    for corner, number in zip(corners, best, strict=True):
        if number in climbed:
            corner.copy_(climbed[number].point)
    spent = -(-int(told[:, 1].sum()) // _SHARDS)
    return list(add_up(corners)), spent


def _confirmed(
    searches: _Searches,
    search: _Search,
    space: Space,
    epsilon: float,
    points: dict[str, BoxMaximum],
) -> tuple[float, dict[str, float], bool]:
    """L(θ) and the maxima evaluated in float64, and whether the search could see the difference.

    A search in a narrower dtype chooses its best point by losses that are rounded, and its θ + z
    may be rounded out of the box. So the point is made again in float64, inside the box, and both
    losses are computed there: what is reported is never above the maximum. Cost: a forward pass for
    each maximiser.
    """
    context = search.context
    loss, gradient = context.value_and_gradient
    found = {name: max(point.value, loss) for name, point in points.items()}
    rise = max(found.values()) - loss
    compute = context.objective.network.compute
    if compute == torch.float64:
        bound = epsilon * (space.coordinates(context.theta).abs() + 1)
        seen = max(rise, float((bound * space.pull(gradient)).abs().sum()))
        rounding = _ROUNDINGS * torch.finfo(compute).eps * abs(loss)
        return loss, found, rise > rounding or seen == 0
    on_cpu = context.theta.device.type == "cpu"
    double = searches.double if on_cpu or rise <= _PLAIN_RISE * (1 + abs(loss)) else None
    if double is None:
        rounding = _ROUNDINGS * torch.finfo(compute).eps * max(1.0, abs(loss))
        return loss, found, rise > rounding
    theta, objective = double.context.theta, double.context.objective
    bound = epsilon * (space.coordinates(theta).abs() + 1)
    at_theta = double.loss
    for name, point in points.items():
        there = theta + space.lift(bound * point.point.double().clamp(-1, 1))
        if space.dimensions is None:
            outside = (there - theta).abs() > bound
            there = torch.where(outside, torch.nextafter(there, theta), there)
        found[name] = max(objective.loss(there), at_theta)
    exact = max(found.values()) - at_theta
    return at_theta, found, exact > 0 and abs(rise - exact) <= _DISAGREEMENT * exact


def _plain(
    context: Context,
    objective: Objective,
    at_theta: tuple[float, Tensor],
    space: Space,
    bound: Tensor,
) -> tuple[ValueAndGradient, tuple[float, Tensor]]:
    """As `_scaled`, with L itself as the objective: corners need no more than signs and an order.

    A loss that is negative at θ or elsewhere in the box has no logarithm.
    """
    loss, gradient = at_theta

    def function(point: Tensor) -> tuple[float, Tensor]:
        value, full = objective.gradient(context.theta + space.lift(bound * point))
        return value, space.pull(full)

    return function, (loss, space.pull(gradient))


def _scaled(
    context: Context,
    objective: Objective,
    at_theta: tuple[float, Tensor],
    space: Space,
    bound: Tensor,
) -> tuple[ValueAndGradient, tuple[float, Tensor]]:
    """The problem over u ∈ [−1, 1]ᵖ with z = bound·u: value and gradient at any u, and at 0.

    The objective is log L where L(θ) is positive: it rises evenly where L rises by powers of ten.
    """
    logarithm = at_theta[0] > 0

    def transform(value: float, pulled: Tensor) -> tuple[float, Tensor]:
        if not logarithm:
            return value, bound * pulled
        if not value > 0:
            return -math.inf, pulled
        return math.log(value), bound * pulled / value

    plain, start = _plain(context, objective, at_theta, space, bound)
    return lambda point: transform(*plain(point)), transform(*start)


def _with_loss(found: BoxMaximum, loss: float) -> BoxMaximum:
    """The maximum with the loss in place of its logarithm; the centre's own where that is best."""
    if not bool(found.point.any()):
        return BoxMaximum(loss, found.point, found.evaluations)
    value = math.exp(found.value) if loss > 0 else found.value
    return BoxMaximum(value, found.point, found.evaluations)


def _raw(context: Context, space: Space, bound: Tensor) -> BoxMaximum:
    """SciPy's L-BFGS-B on −L(θ + Az) over |zᵢ| ≤ bound, from z = 0, memory 10."""
    try:
        from scipy.optimize import Bounds, minimize
    except ImportError as error:
        raise SharpError(
            f"{setting('maximizer', 'raw')} needs SciPy", "pip install 'sharpcli[raw]'"
        ) from error

    def function(z: Any) -> tuple[float, Any]:
        shift = space.lift(torch.as_tensor(z).to(context.theta))
        value, gradient = context.objective.gradient(context.theta + shift)
        return -value, -space.pull(gradient).cpu().double().numpy()

    limit = bound.cpu().double().numpy()
    found = minimize(
        function,
        0 * limit,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(-limit, limit),
        options={"maxiter": context.settings.iterations, "maxcor": 10},
    )
    point = torch.as_tensor(found.x).to(context.theta) / bound
    return BoxMaximum(-float(found.fun), point, int(found.nfev))


def _sampling_error(context: Context, shift: Tensor, loss: float) -> Sampled:
    """Standard error of φ from the paired losses of each example at θ and at the maximum.

    By the envelope theorem the maximum's own place does not change φ to first order.
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
    return Sampled(found.sampling_error, sampling_status(rows.doubt, found.carriers))


def _selection_bias(context: Context, space: Space, bound: Tensor, point: Tensor) -> float | None:
    """How much higher a subset's φ is than that of all data, for its maximum being its own.

    Each half of the subset gets a maximum of its own, by ascents from the centre and from the one
    that was found. How much higher the halves' losses are at their own than at each other's is, to
    second order, twice what a half's φ is too high; the bias goes with the inverse of the number of
    examples, and to 0 where all are measured. Cost: about 8 gradients and two passes.
    """
    rows = context.objective.rows
    if not rows.sampled or rows.count < 2 or not context.value_and_gradient[0] > -1:
        return None
    loss, points, own = context.value_and_gradient[0], [], halves(context)
    for half in own:
        at_theta = half.gradient(context.theta)
        function, start = _scaled(context, half, at_theta, space, bound)
        found = corner_ascent(function, *start, starts=[point.sign()], iterations=_HALF_STEPS)
        points.append(context.theta + space.lift(bound * found.point))
    higher = sum(
        half.loss(mine) - half.loss(other)
        for half, mine, other in zip(own, points, points[::-1], strict=True)
    )
    return max(0.0, 100 * higher / 8 / (1 + loss) * share_left(context.objective))
