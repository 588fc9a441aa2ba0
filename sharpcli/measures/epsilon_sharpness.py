"""Keskar's ε-sharpness: how much the loss can rise within a small box."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ..errors import SharpError, UsageError
from ..linalg.box import BoxMaximum, ValueAndGradient, corner_ascent, projected_lbfgs
from ..moments import mean_of, moments
from ..objective import Objective, accumulator
from ..processes import add_up, rank, size
from ..reliability import sampling_status
from ..results import Scalar, scalar_fields
from .context import Context
from .sampling import Sampled, halves, part, share_left
from .subspace import FullSpace, RandomSubspace, Space

__all__ = ["epsilon_sharpness", "sharpness"]

# Maximisers that differ by more than this share have not both arrived.
_DISAGREEMENT = 0.1
# Where else than at the centre corner ascents start, found by trial on minima with losses from 1e-1
# to 1e-7: a power that evens out the examples' losses, and ascents on shards of the data.
_POWER = 0.1
_SHARDS, _SHARD_STEPS, _SHARD_STARTS = 8, 4, 3
# Steps of the ascents on halves: they start near a maximum.
_HALF_STEPS = 8


def epsilon_sharpness(context: Context) -> dict[str, Any]:
    """φ = 100·(max_{z∈C_ε} L(θ+Az) − L(θ))/(1 + L(θ)), C_ε = {z: |zᵢ| ≤ ε(|(A⁺θ)ᵢ| + 1)}.

    A = I, or n×p with standard normal columns. Keskar et al. 2017, metric 2.1. The maximum is only
    ever bounded from below: the largest loss found counts, and each maximiser's is given. Both
    work on the scaled problem u = z/(ε(|A⁺θ| + 1)) ∈ [−1, 1]ᵖ with log L as objective, so a loss
    near zero does not stall them; `raw` is SciPy's L-BFGS-B on the problem as it is written. Cost:
    one gradient an evaluation; for each ε 10 to 20 (lbfgsb) and about 40 (corner). Not invariant to
    rescaling. Where a subset was measured, the sampling error is that of the losses at the maximum
    found, and the sampling bias what choosing that maximum by the subset adds. Both cost about 8
    gradients more.
    """
    entries, origin = [], _Origin(context)
    for dimensions in context.settings.subspaces:
        space = _space(context, dimensions)
        coordinates = space.coordinates(context.theta)
        for epsilon in context.settings.epsilons:
            started = time.perf_counter()
            bound = epsilon * (coordinates.abs() + 1)
            entry = _one(context, origin, space, bound, epsilon)
            context.synchronize()
            entries.append({**entry, "seconds": time.perf_counter() - started})
    return {"epsilon_sharpness": entries}


def sharpness(maximum: float, loss: float) -> float:
    """100·(maximum − loss)/(1 + loss)."""
    return 100 * (maximum - loss) / (1 + loss)


def _space(context: Context, dimensions: int | None) -> Space:
    if dimensions is None:
        return FullSpace()
    if dimensions > context.objective.size:
        raise UsageError(
            f"--subspace {dimensions}: the model has only {context.objective.size} parameters",
            "a subspace has as many dimensions at most",
        )
    return RandomSubspace(context.theta, dimensions, context.seed)


def _one(
    context: Context, origin: _Origin, space: Space, bound: Tensor, epsilon: float
) -> dict[str, Any]:
    loss, _ = context.value_and_gradient
    points = {name: maximize(context, space, bound) for name, maximize in _chosen(context, origin)}
    losses = {name: found.value for name, found in points.items()}
    best = max(points, key=lambda name: losses[name])
    values = {name: sharpness(maximum, loss) for name, maximum in losses.items()}
    low, high = min(values.values()), max(values.values())
    where = f"ε={epsilon:g}" + (f", p={space.dimensions}" if space.dimensions else "")
    if high - low > _DISAGREEMENT * abs(high):
        by = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        context.warnings.append(
            f"the maximisers of ε-sharpness ({where}) differ by more than 10 %: {by}; say which "
            "one was used when you quote φ"
        )
    sampled = _sampling_error(context, space.lift(bound * points[best].point), loss)
    error = sampled.error
    bias = _selection_bias(context, space, bound, points[best].point)
    scalar = Scalar(
        values[best],
        None,
        "lower_bound",
        "lower_bound",
        sampling_error=error,
        sampling_bias=bias,
        sampling_status=sampled.status,
    )
    if error is not None and bias is not None and bias > error / 2 and not context.part:
        rows = context.objective.rows
        context.warnings.append(
            f"φ ({where}) of {rows.count} examples is about {bias:.2g} higher than that of all "
            f"{rows.total}: a maximum fits the examples that it was sought on; take more --samples"
        )
    return {
        "epsilon": epsilon,
        "subspace": space.dimensions,
        **scalar_fields(scalar),
        "by_maximizer": values,
        "evaluations": sum(found.evaluations for found in points.values()),
        "loss": loss,
        "loss_at_maximum": losses[best],
    }


Maximizer = Callable[[Context, Space, Tensor], BoxMaximum]


def _chosen(context: Context, origin: _Origin) -> list[tuple[str, Maximizer]]:
    corner = partial(_corner, origin=origin)
    known: dict[str, Maximizer] = {"lbfgsb": _lbfgsb, "corner": corner, "raw": _raw}
    chosen = context.settings.maximizer
    names = ["lbfgsb", "corner"] if chosen == "both" else [chosen]
    return [(name, known[name]) for name in names]


def _lbfgsb(context: Context, space: Space, bound: Tensor) -> BoxMaximum:
    function, start = _scaled(context, context.objective, context.value_and_gradient, space, bound)
    settings = context.settings
    found = projected_lbfgs(
        function, *start, iterations=settings.iterations, progress=context.progress
    )
    return _with_loss(found, context.value_and_gradient[0])


def _corner(context: Context, space: Space, bound: Tensor, *, origin: _Origin) -> BoxMaximum:
    function, start = _scaled(context, context.objective, context.value_and_gradient, space, bound)
    starts, spent = _starts(context, origin, space, bound)
    found = corner_ascent(
        function,
        *start,
        starts=starts,
        iterations=context.settings.iterations,
        progress=context.progress,
    )
    found = _with_loss(found, context.value_and_gradient[0])
    return BoxMaximum(found.value, found.point, found.evaluations + spent)


class _Origin:
    """Gradients at θ from which corner ascents start: the same in every box, so computed once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.evaluations = 0

    @cached_property
    def even(self) -> Tensor:
        """The gradient of the mean of ℓ^q (n,). Cost: one gradient."""
        self.evaluations += 1
        return self._context.objective.gradient(self._context.theta, power=_POWER)[1]

    @cached_property
    def shards(self) -> dict[int, tuple[Objective, tuple[float, Tensor]]]:
        """The shards that are this process's own, by number: each with its loss and its gradient.

        Cost: one gradient in all.
        """
        context, generator = self._context, torch.Generator().manual_seed(self._context.seed)
        self.evaluations += 1
        order = torch.randperm(context.objective.rows.count, generator=generator)
        own = {
            number: part(context.objective, indices, alone=True)
            for number, indices in enumerate(order.chunk(_SHARDS))
            if number % size() == rank()
        }
        return {number: (shard, shard.gradient(context.theta)) for number, shard in own.items()}


def _starts(
    context: Context, origin: _Origin, space: Space, bound: Tensor
) -> tuple[list[Tensor], int]:
    """Corners from which other examples' losses rise than those that are largest at θ.

    Near a minimum the gradient is that of a few examples, and the ascent from the centre ends on
    them; the highest corner often belongs to others. One start weighs examples more evenly (ℓ^q),
    and the best of eight ascents on an eighth of the data each let others come forward. Gives the
    starts, and what they cost in gradients over all the data.
    """
    before, starts = origin.evaluations, []
    if context.value_and_gradient[0] > 0:
        starts.append(space.pull(origin.even).sign())
    rows = context.objective.rows
    if rows.count < 2 * _SHARDS or rows.fixed_batch is not None:  # a part has other batches
        return starts, origin.evaluations - before
    found, climbed = _shard_corners(context, origin, space, bound)
    return starts + found, origin.evaluations - before + climbed


def _shard_corners(
    context: Context, origin: _Origin, space: Space, bound: Tensor
) -> tuple[list[Tensor], int]:
    """The best corners of ascents on shards, and what they cost in gradients over all the data.

    Of several processes each climbs on shards of its own: a pass over a shard is too short to be
    divided.
    """
    climbed = {}
    told = torch.zeros(_SHARDS, 2, dtype=accumulator(context.theta.device))
    for number, (shard, at_theta) in origin.shards.items():
        function, start = _scaled(context, shard, at_theta, space, bound)
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
    loss, gradient = at_theta
    logarithm = loss > 0

    def transform(value: float, pulled: Tensor) -> tuple[float, Tensor]:
        if not logarithm:
            return value, bound * pulled
        if not value > 0:
            return -math.inf, pulled
        return math.log(value), bound * pulled / value

    def function(point: Tensor) -> tuple[float, Tensor]:
        value, full = objective.gradient(context.theta + space.lift(bound * point))
        return transform(value, space.pull(full))

    return function, transform(loss, space.pull(gradient))


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
        raise SharpError("--maximizer raw needs SciPy", "pip install 'sharpcli[raw]'") from error

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
    if not rows.sampled:
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
    if not rows.sampled or rows.count < 2:
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
