"""How far the loss rises after the one step of sharpness-aware minimization."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.curvature import Rounding
from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.statuses import Status
from sharpcli.errors import setting
from sharpcli.linalg.ball import Ball
from sharpcli.linalg.trace import random_signs
from sharpcli.measures.context import Context
from sharpcli.measures.rises import Surroundings
from sharpcli.objective.objective import Objective
from sharpcli.objective.shards import shards, share_left
from sharpcli.runtime.randomness import own_generator

__all__ = ["sam_sharpness"]

# A gradient of which rounding is a larger share has no known direction.
_LARGEST_SHARE = 0.1


def sam_sharpness(context: Context) -> dict[str, Any]:
    """`sam`: L(θ + ρg/‖g‖) − L(θ). `asam`: L(θ + ρT²g/‖Tg‖) − L(θ) with T = diag |θ|.

    Each is the rise after one step along the gradient to the edge of the ball ‖δ‖₂ ≤ ρ or
    ‖T⁻¹δ‖₂ ≤ ρ, so it bounds the largest rise in that ball from below. `asam` is invariant to
    rescaling that leaves the function unchanged; `sam` is not. A zero gradient has no direction,
    and then there is no value. On a subset the step follows the subset's own gradient, and the
    sampling bias is what this adds.

    Cost: one gradient, and for each a forward pass and one more for its rounding; on a subset
    about two gradients more.
    Source: Foret et al. 2021 (ρ = 0.05); Kwon et al. 2021 (ASAM, ρ = 0.5).
    """
    options, theta = context.settings.options, context.theta
    around = Surroundings(context)
    _, gradient = context.value_and_gradient
    found: dict[str, Any] = {}
    for name, rho, scale in (
        ("sam", options["sam_rho"], None),
        ("asam", options["asam_rho"], theta.abs()),
    ):
        scalar = _one(context, around, gradient, rho, scale)
        found[name] = scalar_fields(scalar, rho=rho)
    return {"sam_sharpness": {**found, "evaluations": 5}}


def _one(
    context: Context, around: Surroundings, gradient: Tensor, rho: float, scale: Tensor | None
) -> Scalar:
    """The rise after a step; without a value if the gradient has no direction."""
    shift = _step(gradient, rho, scale)
    if not bool(shift.any()):
        return Scalar(
            None,
            status=Status.UNRESOLVED,
            advice="the gradient is zero, so the step has no direction: "
            f"measure {setting('measures', ['adaptive-sharpness'])}",
        )
    rise = around.rise(shift)
    scalar = around.scalar(rise, _rounding(context, around, rise.value, shift, rho, scale))
    if scalar.sampling_error is not None:
        bias = _selection_bias(context, rise.value, rho, scale)
        error = math.hypot(scalar.sampling_error, bias)
        scalar = replace(scalar, error=error, sampling_error=error, sampling_bias=bias)
    if scalar.status == Status.CONVERGED and _rounded(context, gradient, scale):
        scalar = replace(
            scalar,
            status=Status.PRECISION,
            advice="the gradient is as small as its rounding, so the step's direction is not "
            f"known: use {setting('dtype', 'float64')}, or "
            f"{setting('measures', ['adaptive-sharpness'])}",
        )
    return scalar


def _step(gradient: Tensor, rho: float, scale: Tensor | None) -> Tensor:
    """ρg/‖g‖, or with a scale T ρT²g/‖Tg‖; zero if that direction is."""
    ball = Ball("l2")
    if scale is None:
        return rho * ball.farthest(gradient)
    return rho * scale * ball.farthest(scale * gradient)


def _rounding(
    context: Context,
    around: Surroundings,
    rise: float,
    shift: Tensor,
    rho: float,
    scale: Tensor | None,
) -> float:
    """The error of a rise from rounding in both losses, in the gradient and in θ + δ.

    The step is taken again, with the gradient moved by its rounding and θ by its last places, both
    with random signs. Cost: a forward pass, and two of a few rows.
    """
    _, gradient = context.value_and_gradient
    _, off = context.rounding.gradient
    signs = random_signs(2, gradient[None], own_generator("rounding of a step", context.seed))
    moved = gradient + signs[0].to(gradient) * off.to(gradient)
    last = torch.finfo(gradient.dtype).eps * (context.theta + shift)
    again = _step(moved, rho, scale) + signs[1].to(gradient) * last
    there = Rounding(
        context.objective, context.theta + shift, context.settings.curvature, context.seed
    )
    change = around.rise(again).value - rise
    return math.hypot(around.rounding, there.loss, 2 * change)


def _rounded(context: Context, gradient: Tensor, scale: Tensor | None) -> bool:
    """Whether rounding is a tenth of the gradient that gives the direction, or more."""
    _, off = context.rounding.gradient
    own = gradient.to(off)
    if scale is not None:
        off, own = off * scale.to(off), own * scale.to(off)
    return float(off.norm()) > _LARGEST_SHARE * float(own.norm())


def _selection_bias(context: Context, rise: float, rho: float, scale: Tensor | None) -> float:
    """How much higher a subset's rise is because the step follows the subset's own gradient.

    Each half of the subset steps along its own gradient and along the other half's. With own and
    crossed rises O and C, O(O − C)/2 is the part of the square of the subset's rise that is noise:
    exact for a slope, where rises go with the gradient's norm, and to first order for a rise by
    curvature. Cost: one gradient and two forward passes.
    """
    objective = context.objective
    if objective.rows.count < 4:
        return rise
    halves = list(shards(objective, context.seed, 2))
    steps = [_step(half.gradient(context.theta)[1], rho, scale) for half in halves]

    def mean(of: list[Tensor]) -> float:
        return sum(_rise(half, context.theta, step) for half, step in zip(halves, of, strict=True))

    own, crossed = mean(steps) / 2, mean(steps[::-1]) / 2
    noise = max(0.0, own * (own - crossed) / 2)
    known = rise - math.sqrt(max(0.0, rise * rise - noise)) if rise > 0 else math.sqrt(noise)
    return known * share_left(objective)


def _rise(objective: Objective, theta: Tensor, step: Tensor) -> float:
    return objective.loss(theta + step) - objective.loss(theta)
