"""Critical and directional sharpness: curvature along the optimizer's update, by forward passes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.curvature import make_operator
from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import SharpError, setting
from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.context import Context
from sharpcli.measures.critical_step import RELATIVE, Crossing, crossing
from sharpcli.measures.kinks import has_kinks
from sharpcli.measures.sampling import Sampled, error_of_mean
from sharpcli.measures.update import Update, update
from sharpcli.objective.checks import check_finite
from sharpcli.objective.shards import SHARDS, shards, share_left

__all__ = ["critical_sharpness"]

# Forward passes in all, and those of the search: what is left are the differences along Δ.
_PASSES, _SEARCH = 12, 9
# The first step without a learning rate moves θ by this share of its norm.
_MOVED = 0.01
# The step of the differences, as a share of the critical one: f has the curvature's share of the
# rise in it, and third and fourth derivatives change it little.
_DIFFERENCE = 1 / 8
# Rounding of the mean loss, in machine epsilons of it: the logits carry some ten into the loss.
_ROUNDING = 16.0
# A gradient of a sample is its noise if the noise has a larger share of its square.
_NOISY = 0.5


def critical_sharpness(context: Context) -> dict[str, Any]:
    """2/η_c with η_c the smallest η > 0 at which L(θ − ηΔ) > L(θ), and ΔᵀHΔ/Δᵀg.

    Δ is the optimizer's last update if its state is known, else the gradient. On a quadratic both
    numbers are equal; elsewhere 2/η_c sees the loss as far as the step goes. The error of 2/η_c is
    its bracket, a sixteenth wide at most. ΔᵀHΔ and Δᵀg are differences of losses along Δ, with what
    two step sizes differ by and rounding as their error. Over a step kinks, as of ReLU, bend the
    loss as much as H does, at every step size alike: with kinks ΔᵀHΔ/Δᵀg is by a product. An option
    adds it by a product for any loss.
    The second number does not depend on the scale of Δ; the first is for the step θ −= ηΔ.

    Raises:
        SharpError: Δ is zero.

    Cost: 8 to 10 forward passes, at most 12, without derivatives, with two vectors beside θ; one
    gradient if Δ is the gradient or made of it; with kinks a gradient and a product. On
    a subset two more forward passes, and two gradients if Δ is made of the gradient.
    Source: Kalra et al. 2026 (critical sharpness).
    """
    moved = update(context)
    line = _Line(context, moved)
    if not line.length:
        raise SharpError(
            "the update that the optimizer would take is zero: there is no direction to go along",
            "measure a checkpoint from before the gradient vanished",
        )
    found = crossing(line.rise, line.start, noise=line.noise, most=_SEARCH, slope=line.slope)
    numbers: dict[str, Any] = {"direction": moved.of, "step": [found.low, found.high]}
    scalar = _critical(found, line.noise)
    if scalar.status == Status.LOWER_BOUND:
        context.warnings.append(
            f"critical-sharpness: the loss rises at every step along the update ({moved.of}) that "
            "was tried: it is no direction of descent at this checkpoint"
        )
    around = found.best if 0 < found.best < math.inf else line.start
    left = _PASSES - line.passes
    slope, bend = line.derivatives(around * _DIFFERENCE, left)
    ratio = _ratio(slope, bend, critical=None if left >= 4 else 2 / around)
    exact = None
    kinked = has_kinks(context.objective, context.theta)
    if kinked or context.settings.options.get("exact_directional"):
        exact = _exact(context, moved.direction, None if kinked else ratio)
    if kinked and exact is not None:
        ratio = exact
    errors = _sampling(context, line, found, ratio)
    scalar, ratio = (_with(each, own) for each, own in zip((scalar, ratio), errors, strict=True))
    numbers |= {"directional": ratio, "forward_passes": line.passes}
    if exact is not None and context.settings.options.get("exact_directional"):
        numbers["directional_exact"] = exact
    return {"critical_sharpness": scalar_fields(scalar, **numbers)}


@dataclass
class _Line:
    """The loss along −Δ; counts its passes."""

    context: Context
    update: Update

    def __post_init__(self) -> None:
        context, direction = self.context, self.update.direction
        self.passes = 0
        self.at_zero = self.loss(0.0)
        check_finite(context.objective, self.at_zero, context.theta)
        self.length = math.sqrt(_dot(direction, direction))
        compute = context.objective.network.compute
        self.noise = _ROUNDING * torch.finfo(compute).eps * abs(self.at_zero)
        # The known slope only guides the search.
        gradient = context.known("value_and_gradient")
        self.slope = -_dot(direction, gradient[1]) if gradient else None

    @property
    def start(self) -> float:
        """The first step: the optimizer's, or a small share of θ."""
        if self.update.rate:
            return self.update.rate
        size = math.sqrt(_dot(self.context.theta, self.context.theta))
        return _MOVED * (size or 1.0) / self.length

    def at(self, step: float) -> Tensor:
        """θ − step·Δ (n,)."""
        return self.context.theta.sub(self.update.direction, alpha=step)

    def loss(self, step: float) -> float:
        self.passes += 1
        self.context.progress(self.passes, _PASSES)
        theta = self.context.theta if step == 0 else self.at(step)
        return self.context.objective.loss(theta)

    def rise(self, step: float) -> float:
        """L(θ − step·Δ) − L(θ)."""
        return self.loss(step) - self.at_zero

    def derivatives(self, step: float, passes: int) -> tuple[Scalar, Scalar]:
        """−f' and f'' at 0, from differences over one step and over two, extrapolated.

        With fewer than four passes over one step alone, and its error is that of rounding.
        """
        sizes = (step, 2 * step) if passes >= 4 else (step,)
        odd, even = [], []
        for size in sizes:
            ahead, back = self.rise(size), self.rise(-size)
            odd.append((back - ahead) / (2 * size))
            even.append((ahead + back) / size**2)
        found = []
        for values, noise in ((odd, self.noise / step), (even, 4 * self.noise / step**2)):
            best, off = values[0], 0.0
            if len(values) > 1:
                best, off = (4 * values[0] - values[1]) / 3, abs(values[1] - values[0]) / 3
            found.append(Scalar(best, math.hypot(off, noise), "residual"))
        return found[0], found[1]


def _critical(found: Crossing, noise: float) -> Scalar:
    """2/η_c with its bracket as the error."""
    if not found.low or (found.high < math.inf and not found.fell):
        # Within its noise a rise that is not seen is no fall either.
        advice = "the update is no direction of descent: see the gradient's critical sharpness"
        return Scalar(2 / found.high, None, "lower_bound", Status.LOWER_BOUND, advice)
    if found.high == math.inf:
        advice = f"the loss rises at no step up to {found.low:.3g}"
        return Scalar(2 / found.low, None, "upper_bound", Status.UPPER_BOUND, advice)
    value = 2 / found.best
    error = max(2 / found.low - value, value - 2 / found.high)
    off = value * noise / (found.slope * found.best) if found.slope > 0 else math.inf
    error = math.hypot(error, off)
    if not found.narrow:
        advice = f"{_SEARCH} passes did not bring the bracket down to a sixteenth"
        return Scalar(value, error, "residual", Status.MAX_PRODUCTS, advice)
    if off > RELATIVE * value:
        advice = f"rounding hides where the loss rises: use {setting('dtype', 'float64')}"
        known = error if math.isfinite(error) else None
        return Scalar(value, known, "residual", Status.PRECISION, advice)
    return Scalar(value, error, "residual")


def _ratio(slope: Scalar, bend: Scalar, *, critical: float | None) -> Scalar:
    """ΔᵀHΔ/Δᵀg with the errors of both.

    If they come from one step, `critical` is 2/η_c: the ratio changes by their difference up to
    η_c, and so by less than an eighth of it up to an eighth of the way.
    """
    assert slope.value is not None and slope.error is not None
    assert bend.value is not None and bend.error is not None
    if abs(slope.value) <= slope.error:
        advice = "Δᵀg cannot be distinguished from zero: the update neither descends nor climbs"
        return Scalar(None, status=Status.UNRESOLVED, advice=advice)
    value = bend.value / slope.value
    error = math.hypot(bend.error, value * slope.error) / abs(slope.value)
    if critical is not None:
        error += _DIFFERENCE * abs(value - critical)
    if error > RELATIVE * abs(value):
        advice = (
            "differences of losses do not resolve it: the loss is not smooth along the update, or "
            f"rounding hides it; {setting('dtype', 'float64')} or "
            f"{setting('exact_directional', True)} may"
        )
        return Scalar(value, error, "residual", Status.PRECISION, advice)
    return Scalar(value, error, "residual")


def _exact(context: Context, direction: Tensor, other: Scalar | None) -> Scalar:
    """ΔᵀHΔ/Δᵀg by one product and the gradient; `other` is that of differences, if it is sound."""
    settings = replace(context.settings.curvature, operator="hessian")
    operator = make_operator(context.objective, context.theta, settings)
    try:
        image = operator @ direction
    finally:
        operator.release()
    slope, length = _dot(direction, context.value_and_gradient[1]), float(direction.norm())
    noise = length * float(context.rounding.gradient[1].norm())
    if abs(slope) <= noise:
        advice = "Δᵀg cannot be distinguished from zero: the update neither descends nor climbs"
        return Scalar(None, status=Status.UNRESOLVED, advice=advice)
    value = _dot(direction, image) / slope
    bend = length * float(context.rounding.products(direction[None]).norm())
    error = math.hypot(operator.error * length**2 + bend, value * noise) / abs(slope)
    if other is not None and other.value is not None and other.error is not None:
        off = abs(value - other.value)
        if off > 3 * other.error + RELATIVE * abs(value) and other.status == Status.CONVERGED:
            context.warnings.append(
                f"critical-sharpness: ΔᵀHΔ/Δᵀg is {value:.4g} by a product and {other.value:.4g} "
                "by differences of losses: the second derivatives may be wrong"
            )
    if error > RELATIVE * abs(value):
        advice = f"rounding hides it: use {setting('dtype', 'float64')}"
        return Scalar(value, error, "rounding", Status.PRECISION, advice)
    return Scalar(value, error or None, "rounding" if error else None)


def _sampling(
    context: Context, line: _Line, found: Crossing, ratio: Scalar
) -> tuple[Sampled, Sampled]:
    """Sampling errors of 2/η_c and of ΔᵀHΔ/Δᵀg, to first order, from shards.

    A shard's loss rises by f_s where that of all is zero, which moves η_c by −f_s/f'. If Δ is the
    gradient, each shard has a Δ of its own, which moves f by −η∇L(θ − ηΔ)ᵀ(Δ_s − Δ). The curvature
    of a shard is that of its loss between −η_c/4 and η_c/4.
    """
    rows, what = context.objective.rows, "the critical sharpness"
    if not rows.sampled:
        return Sampled(), Sampled()
    if not (found.low and found.slope > 0 and found.high < math.inf) or not ratio.value:
        unknown = Sampled(None, SamplingStatus.UNRELIABLE)
        return unknown, unknown
    eta, base = found.best, context.theta
    places = [base, line.at(eta), line.at(eta / 4), line.at(-eta / 4)]
    own = [line.context.objective.loss(place) for place in places]
    bends = (own[2] + own[3] - 2 * own[0]) / (eta / 4) ** 2
    slopes = (own[3] - own[2]) / (eta / 2)
    by_gradient = line.update.by_gradient
    if by_gradient:
        whole, there = context.value_and_gradient[1], context.objective.gradient(places[1])[1]
        # Δ = g/P, with P = 1 for the gradient itself.
        scale = torch.where(whole == 0, 1.0, line.update.direction / whole)
    critical, directional, noise = [], [], 0.0
    for shard in shards(context.objective, context.seed):
        losses = [shard.loss(place) for place in places]
        rise = losses[1] - losses[0]
        bend = (losses[2] + losses[3] - 2 * losses[0]) / (eta / 4) ** 2
        slope = (losses[3] - losses[2]) / (eta / 2)
        if by_gradient:
            off = shard.gradient(base)[1] - whole
            noise += _dot(off, off)
            off *= scale
            rise -= eta * _dot(there, off)
            # HΔ along the way to the critical point is the mean over it: (g − g(η))/η.
            bend += 2 * (_dot(whole, off) - _dot(there, off)) / eta
            slope += _dot(whole, off)
        critical.append(2 / eta**2 * rise / found.slope)
        directional.append((bend - bends - ratio.value * (slope - slopes)) / slopes)
    errors = [
        error_of_mean(context, what, lambda v=values: torch.tensor(v, dtype=torch.float64))  # type: ignore[misc]
        for values in (critical, directional)
    ]
    if by_gradient:
        noise *= share_left(context.objective) / (SHARDS * (SHARDS - 1))
        if noise > _NOISY * _dot(whole, whole):
            errors = [replace(each, status=SamplingStatus.UNRELIABLE) for each in errors]
    return errors[0], errors[1]


def _with(scalar: Scalar, sampled: Sampled) -> Scalar:
    return replace(scalar, sampling_error=sampled.error, sampling_status=sampled.status)


def _dot(first: Tensor, second: Tensor) -> float:
    return float(dots(first[None], second[None]))
