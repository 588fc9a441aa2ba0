"""The largest loss in a box around θ: starting points for ascents, and the maximisers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import SharpError, setting
from sharpcli.linalg.box import (
    BoxMaximum,
    Values,
    best_corners,
    corner_ascent,
    flip_ascent,
    projected_lbfgs,
)
from sharpcli.measures.box import Box, with_loss
from sharpcli.measures.context import Context
from sharpcli.measures.subspace import Space
from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.objective import Objective
from sharpcli.objective.shards import part
from sharpcli.runtime.memory import is_out_of_memory
from sharpcli.runtime.processes import add_up, rank, size
from sharpcli.runtime.randomness import own_generator

__all__ = ["EVEN_POWER", "Search", "Searches", "in_double", "maxima"]

# Further starts for the corner ascents, chosen by trial on minima with losses from 1e-1 to 1e-7:
# the gradient of losses to this power, which evens out the examples, and ascents on shards of the
# data.
EVEN_POWER = 0.1
_SHARDS, _SHARD_STEPS, _SHARD_STARTS = 8, 4, 3
# All corners are evaluated up to this many dimensions, if the passes use at most this many bytes of
# activations: about three seconds of one CPU core, or less for one layer of many. Without `vmap`
# each corner is a separate call.
_ALL_CORNERS, _ALL_BYTES, _LAYER_BYTES, _ALL_CALLS = 20, 2**31, 2**28, 2**12
# Activation bytes of corners evaluated at once: they stay in the cache.
_CHUNK_BYTES = 2**24
# Corners, and points inside the box, from which L-BFGS continues if a pass costs next to nothing.
# If all corners are evaluated, the points are the best of this many random ones. In more dimensions
# random points are all alike; more than one gained 1 % on one network of thirteen.
_POLISHED, _SIFTED = 8, 1024
# A pass over this many activation bytes costs next to nothing, so there are more starts. In a usual
# box 8 starts came within 0.1 % of the result of 32.
_FREE_BYTES, _FREE_STARTS = 2**20, 8
# Random corners to start from, for each factor of ten that ε is above the usual 1e-3; as many more
# if they cost next to nothing; and if the gradient is zero.
_STARTS_A_DECADE, _FREE_STARTS_A_DECADE, _STATIONARY_STARTS = 8, 32, 4
# A box narrower than this many units in the last place is searched in float64.
_RESOLVED = 16
# Rows for testing whether the model runs in float64.
_PROBE = 8


class Searches:
    """The run's own search, and one in float64 for boxes that need it."""

    def __init__(self, context: Context) -> None:
        self.own = Search(context)

    @cached_property
    def double(self) -> Search | None:
        """The search in float64 on the same objective; None if the model has no float64."""
        context = self.own.context
        objective = in_double(context.objective, context.theta)
        if objective is None or objective is context.objective:
            return None if objective is None else self.own
        return Search(replace(context, objective=objective, theta=context.theta.double()))

    def of(self, space: Space, epsilon: float) -> Search:
        """The search for a box: in float64 if that is cheap or the box is narrow."""
        own = self.own
        dimensions = space.dimensions or own.context.objective.size
        small = dimensions <= _ALL_CORNERS and own.bytes_a_pass <= _FREE_BYTES
        narrow = epsilon < _RESOLVED * torch.finfo(own.context.theta.dtype).eps
        return (self.double if small or narrow else None) or own

    def instead_of(self, search: Search) -> Search | None:
        """The search in float64 to replace one in float32 that did not resolve the rise.

        Narrower dtypes are chosen for speed, which float64 would take away.
        """
        compute = search.context.objective.network.compute
        return self.double if compute == torch.float32 else None


class Search:
    """One objective, and what ascents in all boxes around its θ share."""

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
        return self.context.objective.gradient(self.context.theta, power=EVEN_POWER)[1]

    @cached_property
    def shards(self) -> dict[int, tuple[Objective, tuple[float, Tensor]]]:
        """The shards of this process by number: each with its loss and its gradient.

        Cost: one gradient in total.
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

    @property
    def divisible(self) -> bool:
        """Whether there are examples enough for shards, which must not change fixed batches."""
        rows = self.context.objective.rows
        return rows.count >= 2 * _SHARDS and rows.fixed_batch is None

    def shard_gradients(self) -> Iterator[Tensor]:
        """The gradient (n,) of each shard in turn, the same in every process."""
        theta = self.context.theta
        for number in range(_SHARDS):
            own = self.shards.get(number)
            yield add_up(torch.zeros_like(theta) if own is None else own[1][1].clone())

    @cached_property
    def bytes_a_pass(self) -> int:
        """Bytes that one pass over the data saves or reads: its cost, apart from overhead."""
        objective = self.context.objective
        return int(objective.rows.count * max(objective.saved_bytes, 32)) + 8 * objective.size

    @cached_property
    def batched(self) -> bool:
        """Whether `vmap` can evaluate many losses at once, and gives the right ones."""
        objective, theta = self.context.objective, self.context.theta
        step = 1 + 2**-6 * torch.arange(2, device=theta.device).to(theta)
        pair = theta * step[:, None]
        try:
            together = objective.losses(pair).tolist()
        except (RuntimeError, TypeError, ValueError, SharpError) as error:
            # vmap's error for models that it cannot batch, direct or as a failure of the task's
            # function that it ran. Single evaluations give the same losses.
            if is_out_of_memory(error):
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
        """How many points have their losses computed at once."""
        return max(1, min(4096, _CHUNK_BYTES // self.bytes_a_pass))

    def values(self, box: Box) -> Values:
        """L at many points u of the box [−1, 1]ᵖ."""
        objective, theta = self.context.objective, self.context.theta

        def values(points: Tensor) -> Tensor:
            thetas = theta + box.shift(points)
            if self.batched:
                return objective.losses(thetas)
            alone = [objective.loss(each) for each in thetas]
            return torch.tensor(alone, dtype=accumulator(theta.device), device=theta.device)

        return values


def in_double(objective: Objective, theta: Tensor) -> Objective | None:
    """The same objective in float64, or None if the device or the model has no float64.

    The model's skeleton is shared and rows are converted batch by batch, so the copy only holds
    buffers. A float64 objective is returned as it is. A model with a fixed float32 raises in
    float64 or gives float32 losses; 8 rows at θ (n,) show both. Cost: a forward pass over these.
    """
    if objective.network.compute == torch.float64:
        return objective
    return objective.try_in(torch.float64, theta, _with_wide_losses)


def _with_wide_losses(objective: Objective, theta: Tensor) -> Objective | None:
    network, head = objective.network, objective.rows.head(_PROBE)
    with torch.no_grad(), network.arithmetic():
        outputs = network.outputs(network.unflatten(theta), objective.fixed, head.batch)
        total, _ = network.losses(outputs, head.batch, head.count)
    return objective if total.dtype == torch.float64 else None


def maxima(search: Search, box: Box) -> tuple[dict[str, BoxMaximum], int | None]:
    """The best point by each maximiser, and the number of corners if all of them were evaluated."""
    chosen = search.context.settings.maximizer
    names = ["lbfgsb", "corner"] if chosen == "both" else [chosen]
    found, tops, corners = {}, list[Tensor](), None
    if "corner" in names:
        if _all_corners(search, box):
            corners = 2 ** len(box.bound)
            found["corner"], tops = _every_corner(search, box)
        else:
            found["corner"] = _corner(search, box)
            tops = [found["corner"].point]
    if "lbfgsb" in names:
        found["lbfgsb"] = _lbfgsb(search, box, tops)
    if "raw" in names:
        found["raw"] = _raw(search.context, box)
    return {name: found[name] for name in names}, corners


def _all_corners(search: Search, box: Box) -> bool:
    """Whether all corners of a box can be evaluated in a few seconds."""
    most = _LAYER_BYTES if search.context.part else _ALL_BYTES
    count = len(box.bound)
    if count > _ALL_CORNERS or search.bytes_a_pass << count > most:
        return False
    return search.batched or 2**count <= _ALL_CALLS


def _every_corner(search: Search, box: Box) -> tuple[BoxMaximum, list[Tensor]]:
    """The best of all corners and the centre, and the corners that are nearly as good."""
    context = search.context
    tops = best_corners(
        search.values(box),
        box.bound,
        keep=_POLISHED,
        chunk=search.chunk,
        progress=context.progress,
    )
    loss = context.value_and_gradient[0]
    centre = BoxMaximum(loss, torch.zeros_like(box.bound), 0)
    best = tops[0] if tops and tops[0].value > loss else centre
    return BoxMaximum(best.value, best.point, 0), [top.point for top in tops]


def _lbfgsb(search: Search, box: Box, tops: Sequence[Tensor]) -> BoxMaximum:
    """L-BFGS from the centre, and from other points if the box is large or passes are cheap.

    The best corners (`tops`) are near maxima on faces of the box.
    """
    context = search.context
    function, start = box.scaled(context.objective, context.value_and_gradient)
    iterations, progress = context.settings.iterations, context.progress
    found = [projected_lbfgs(function, *start, iterations=iterations, progress=progress)]
    free = _free_starts(search, box)
    extra = min(free, _POLISHED)
    corners = extra or (1 if _decades(box) else 0)
    points = [*tops[:corners], *_inside(search, box, extra)]
    for point in points:
        value, gradient = function(point)
        if math.isfinite(value):
            climbed = projected_lbfgs(function, value, gradient, start=point, iterations=iterations)
            found.append(replace(climbed, evaluations=climbed.evaluations + 1))
    best = max(found, key=lambda each: each.value)
    total = BoxMaximum(best.value, best.point, sum(each.evaluations for each in found))
    return with_loss(total, context.value_and_gradient[0])


def _inside(search: Search, box: Box, count: int) -> Tensor:
    """Up to `count` starting points inside the box, the best of many if they are cheap."""
    bound = box.bound
    if not count:
        return bound[:0, None]
    sifted = search.batched and _all_corners(search, box)
    generator = own_generator("points of a box", search.context.seed)
    points = 2 * torch.rand(_SIFTED if sifted else 1, len(bound), generator=generator) - 1
    points = points.to(bound)
    if not sifted:
        return points
    values = search.values(box)
    found = torch.cat([values(part) for part in torch.split(points, search.chunk)])
    return points[found.nan_to_num(-math.inf, -math.inf, -math.inf).topk(count).indices]


def _corner(search: Search, box: Box) -> BoxMaximum:
    context = search.context
    function, start = box.unscaled(context.objective, context.value_and_gradient)
    starts, spent = _starts(search, box)
    stationary = not bool(start[1].any())
    count = round(_STARTS_A_DECADE * _decades(box)) + _free_starts(search, box)
    count = max(count, _STATIONARY_STARTS if stationary else 0)
    generator = own_generator("corners of a box", context.seed)
    starts = [_filled(each, generator) for each in starts]
    starts += [_filled(torch.zeros_like(box.bound), generator) for _ in range(count)]
    found = corner_ascent(
        function,
        *start,
        starts=starts,
        iterations=context.settings.iterations,
        progress=context.progress,
    )
    if _flips_are_cheap(search, box) and bool(found.point.any()):
        values = search.values(box)
        flipped = flip_ascent(values, replace(found, evaluations=0), chunk=search.chunk)
        found = replace(flipped, evaluations=found.evaluations)
    return replace(found, evaluations=found.evaluations + spent)


def _filled(corner: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a corner's entries where the gradient is zero or NaN with random signs.

    If the loss is convex, a random corner is on average higher than the middle of the box.
    """
    signs = 2 * torch.randint(0, 2, corner.shape, generator=generator, dtype=torch.int8) - 1
    return torch.where(corner.abs() > 0, corner, signs.to(corner)).to(torch.int8)


def _decades(box: Box) -> float:
    """How many factors of ten ε is above the usual values; 0 up to about 1e-3."""
    return max(0.0, math.log10(box.epsilon / 1e-3) - 0.5)


def _free_starts(search: Search, box: Box) -> int:
    """How many more starts cost next to nothing, because a pass does; more in a larger box."""
    free = round(_FREE_STARTS + _FREE_STARTS_A_DECADE * _decades(box))
    return min(free, _FREE_BYTES // search.bytes_a_pass)


def _flips_are_cheap(search: Search, box: Box) -> bool:
    return len(box.bound) * search.bytes_a_pass <= _CHUNK_BYTES and search.batched


def _starts(search: Search, box: Box) -> tuple[list[Tensor], int]:
    """Starting corners for the ascent that favour examples whose loss is small at θ.

    Near a minimum a few examples dominate the gradient, and the ascent from the centre ends at
    their corner; the highest corner often belongs to others. One start weighs examples more evenly
    (ℓ^q). The others are the best of eight ascents, each on an eighth of the data. Returns the
    starts and their cost in gradients over all the data.
    """
    context, before, starts = search.context, search.evaluations, []
    if context.value_and_gradient[0] > 0:
        starts.append(box.space.pull(search.even).sign())
    if not search.divisible:
        return starts, search.evaluations - before
    found, climbed = _shard_corners(search, box)
    return starts + found, search.evaluations - before + climbed


def _shard_corners(search: Search, box: Box) -> tuple[list[Tensor], int]:
    """The best corners of ascents on shards, and their cost in gradients over all the data.

    Each process climbs on its own shards: a pass over a shard is too short to divide.
    """
    context, climbed = search.context, {}
    told = torch.zeros(_SHARDS, 2, dtype=accumulator(context.theta.device))
    for number, (shard, at_theta) in search.shards.items():
        function, start = box.unscaled(shard, at_theta)
        climbed[number] = corner_ascent(function, *start, iterations=_SHARD_STEPS)
        told[number, 0] = climbed[number].value
        told[number, 1] = climbed[number].evaluations
    told = add_up(told.to(context.theta.device)).cpu()
    best = told[:, 0].argsort(descending=True, stable=True)[:_SHARD_STARTS].tolist()
    corners = torch.zeros(len(best), len(box.bound), dtype=torch.int8, device=box.bound.device)
    for corner, number in zip(corners, best, strict=True):
        if number in climbed:
            corner.copy_(climbed[number].point)
    spent = -(-int(told[:, 1].sum()) // _SHARDS)
    return list(add_up(corners)), spent


def _raw(context: Context, box: Box) -> BoxMaximum:
    """SciPy's L-BFGS-B on −L(θ + Az) over |zᵢ| ≤ bound, from z = 0, memory 10."""
    try:
        from scipy.optimize import Bounds, minimize
    except ImportError as error:
        raise SharpError(
            f"{setting('maximizer', 'raw')} needs SciPy", "pip install 'sharpcli[raw]'"
        ) from error

    def function(z: Any) -> tuple[float, Any]:
        shift = box.space.lift(torch.as_tensor(z).to(context.theta))
        value, gradient = context.objective.gradient(context.theta + shift)
        return -value, -box.space.pull(gradient).cpu().double().numpy()

    limit = box.bound.cpu().double().numpy()
    found = minimize(
        function,
        0 * limit,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(-limit, limit),
        options={"maxiter": context.settings.iterations, "maxcor": 10},
    )
    point = torch.as_tensor(found.x).to(context.theta) / box.bound
    return BoxMaximum(-float(found.fun), point, int(found.nfev))
