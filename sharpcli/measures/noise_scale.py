"""Gradient noise scales: at which batch size noise and gradient weigh the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpcli.curvature import CurvatureOperator, make_operator
from sharpcli.documents.noise import noise_scale as of_settings
from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import setting
from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.context import Context
from sharpcli.measures.noise import Noise, deviations, measured_noise, squared_gradient
from sharpcli.objective.reliability import sampling_status, widened
from sharpcli.objective.shards import SHARDS, shards, share_left
from sharpcli.runtime.randomness import own_generator

__all__ = ["noise_scale"]

_REPLICATES = 2000  # of the bootstrap: its quantiles are then known to a few per cent of the width
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class _Part:
    """A numerator or a denominator, its standard error, and replicates of the bootstrap (r,)."""

    value: float
    error: float
    replicates: Tensor


def noise_scale(context: Context) -> dict[str, Any]:
    """B_simple = tr Σ/|G|² and B_noise = tr(HΣ)/(GᵀHG), with Σ the covariance of the gᵢ.

    Numerators and denominators are estimated apart. G and H are those of all measured rows; tr Σ is
    a mean over examples, tr(HΣ) is tr Σ times the mean of vᵀHv/vᵀv over v = gᵢ − G of examples that
    are drawn in proportion to |v|². That mean lies between H's eigenvalues, so a few heavy examples
    do not dominate it. On a sample of the data the bias of |G|² and of GᵀHG is subtracted, so both
    may be negative. The intervals are 95 % bootstrap intervals over examples, or their shards,
    wider where few examples carry the scatter; an end is null where a denominator may be zero.
    `smith` is η(N/B − 1), with momentum ηN/(B(1 − m)), by the checkpoint's metadata if its
    optimizer is SGD.

    Cost: a gradient of each example that is looked at, a product of each that is drawn; on a sample
    a gradient and a product more.
    Source: McCandlish et al. 2018; Smith et al. 2018.
    """
    noise = measured_noise(context)
    generator = own_generator("bootstrap of noise", context.seed)
    trace = _trace(noise, generator)
    square = squared_gradient(context, noise)
    below = _Part(
        square.value, square.error, _moved(context, square.value, square.moves, generator)
    )
    status = square.unreliable or _reliability(context, noise)
    numbers: dict[str, Any] = {
        "simple": _quotient(context, trace, below, status, "|G|²", "the gradient"),
        **_curved(context, noise, trace, generator, status),
        "examples": len(noise.indices),
    }
    smith = _of_metadata(context)
    if smith is not None:
        numbers["smith"] = Scalar(smith)
    return {"noise_scale": numbers}


def _trace(noise: Noise, generator: torch.Generator) -> _Part:
    """Tr Σ with its replicates."""
    count = len(noise.squares)
    drawn = torch.randint(count, (_REPLICATES, count), generator=generator)
    means = noise.squares[drawn].mean(1) - noise.squares.mean()
    spread = noise.factor * noise.widening * math.sqrt(max(noise.left, 0.0))
    error = noise.error
    return _Part(noise.trace, math.inf if error is None else error, noise.trace + spread * means)


def _curved(
    context: Context,
    noise: Noise,
    trace: _Part,
    generator: torch.Generator,
    status: SamplingStatus | None,
) -> dict[str, Any]:
    """B_noise."""
    if not trace.value:
        return {"noise": Scalar(None, status=Status.UNRESOLVED, advice="the noise is zero")}
    gradient = context.value_and_gradient[1]
    operator = context.hessian
    image = operator @ gradient
    bend = float(dots(gradient[None], image[None]))
    most, count = int(context.settings.options["noise_products"]), len(noise.squares)
    if most >= count:  # each example once, with its own share of the trace
        places, shares = torch.arange(count), noise.squares / noise.squares.sum()
    else:
        places = torch.multinomial(noise.squares, most, replacement=True, generator=generator)
        shares = torch.full((most,), 1 / most, dtype=torch.float64)
    quotients = _quotients(context, noise, operator, places)
    mean = float(shares @ quotients)
    drawn = torch.randint(len(places), (_REPLICATES, len(places)), generator=generator)
    if most >= count:
        offs, error = torch.zeros(_REPLICATES, dtype=torch.float64), 0.0
    else:
        error = widened(float(quotients.std()) / math.sqrt(most), most - 1.0)
        offs = quotients[drawn].mean(1) - mean
    above = _Part(
        trace.value * mean,
        math.hypot(trace.error * mean, trace.value * error),
        trace.replicates * (mean + offs),
    )
    below, extra = _bend(context, bend, image, above.value, generator)
    unknown = SamplingStatus.UNRELIABLE if below.error == math.inf else status
    found = _quotient(context, above, below, unknown, "GᵀHG", "the curvature along the gradient")
    return {"noise": found, "products": 1 + len(torch.unique(places)) + extra}


def _quotients(
    context: Context, noise: Noise, operator: CurvatureOperator, places: Tensor
) -> Tensor:
    """vᵀHv/vᵀv for v = gᵢ − G of the examples at `places` among those that were looked at."""
    unique, back = torch.unique(places, return_inverse=True)
    found = []
    for offs in deviations(context, noise.indices[unique], noise.weight):
        for off in offs:
            square = float(dots(off[None], off[None]))
            own = float(dots(off[None], (operator @ off)[None])) / square if square else 0.0
            found.append(own)
            context.progress(len(found), len(unique))
    return torch.tensor(found, dtype=torch.float64)[back]


def _bend(
    context: Context, bend: float, image: Tensor, noisy: float, generator: torch.Generator
) -> tuple[_Part, int]:
    """GᵀHG of all data without the bias of a sample, and the products that this took.

    On a sample it is off by tr(HΣ)/N and by twice the covariance of G and HG over samples.
    """
    objective, gradient = context.objective, context.value_and_gradient[1]
    off = float(image.norm()) * float(context.rounding.gradient[1].norm()) * 2
    off += float(gradient.norm()) * float(context.rounding.products(gradient[None]).norm())
    if not objective.rows.sampled:
        return _Part(bend, off, _moved(context, bend, None, generator)), 0
    left = share_left(objective)
    bias = left * noisy / objective.rows.count
    if objective.rows.count < 2 * SHARDS:
        return _Part(bend - bias, math.inf, _moved(context, bend - bias, None, generator)), 0
    moves, mixed = [], 0.0
    for shard in shards(objective, context.seed):
        own = make_operator(shard, context.theta, context.settings.curvature)
        try:
            turn = own @ gradient - image
        finally:
            own.release()
        step = shard.gradient(context.theta)[1] - gradient
        moves.append(
            2 * float(dots(image[None], step[None])) + float(dots(gradient[None], turn[None]))
        )
        mixed += float(dots(step[None], turn[None]))
    bias += 2 * left * mixed / (SHARDS * (SHARDS - 1))
    found = torch.tensor(moves, dtype=torch.float64)
    error = math.hypot(math.sqrt(float(found.var()) / SHARDS * left), bias, off)
    value = bend - bias
    return _Part(value, widened(error, SHARDS - 1), _moved(context, value, found, generator)), 1


def _moved(
    context: Context, value: float, moves: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Replicates of a denominator, from what shards move it by."""
    whole = torch.full((_REPLICATES,), value, dtype=torch.float64)
    if moves is None:
        return whole
    drawn = torch.randint(SHARDS, (_REPLICATES, SHARDS), generator=generator)
    off = moves[drawn].mean(1) - moves.mean()
    return whole + off * widened(math.sqrt(share_left(context.objective)), SHARDS - 1)


def _quotient(
    context: Context,
    above: _Part,
    below: _Part,
    unreliable: SamplingStatus | None,
    named: str,
    what: str,
) -> dict[str, Any]:
    """A ratio with its standard error and its bootstrap interval."""
    sampled = context.objective.rows.sampled
    if not below.value:
        return scalar_fields(Scalar(None, status=Status.UNRESOLVED, advice=f"{named} is zero"))
    value = above.value / below.value
    error = math.hypot(above.error, value * below.error) / abs(below.value)
    status, advice = Status.CONVERGED, None
    if below.value < 0:
        status = Status.UNRESOLVED
        advice = f"{named} is {below.value:.3g}, so this is no batch size"
        advice += f": take more {setting('samples')}" if sampled else ""
    elif below.value <= 1.96 * below.error:
        status = Status.UNRESOLVED if sampled else Status.PRECISION
        advice = f"{what} cannot be distinguished from zero ({named} is {below.value:.3g}): "
        advice += (
            f"take more {setting('samples')}" if sampled else f"use {setting('dtype', 'float64')}"
        )
    scalar = Scalar(
        value,
        error if math.isfinite(error) and error else None,
        "standard_error" if math.isfinite(error) and error else None,
        status,
        advice,
        sampling_error=error if sampled and math.isfinite(error) else None,
        sampling_status=unreliable if sampled else None,
    )
    ratios = above.replicates / below.replicates
    ends = [float(each) for each in torch.quantile(ratios, torch.tensor(_INTERVAL).double())]
    known = math.isfinite(error) and bool((below.replicates * below.value > 0).all())
    return scalar_fields(scalar, interval=ends if known else [None, None])


def _reliability(context: Context, noise: Noise) -> SamplingStatus | None:
    rows = context.objective.rows
    return sampling_status(rows.doubt, noise.carried) if rows.sampled else None


def _of_metadata(context: Context) -> float | None:
    """Smith's g of the checkpoint's training; None if its metadata do not have what it takes."""
    about = context.checkpoint.metadata if context.checkpoint else {}
    rate, batch = about.get("lr_now", about.get("lr")), about.get("batch_size")
    momentum = about.get("momentum") or 0.0
    train = context.splits.get("train")
    numbers = all(isinstance(each, int | float) for each in (rate, batch, momentum))
    if not numbers or train is None or about.get("optimizer", "sgd") != "sgd":
        return None
    assert isinstance(rate, int | float)
    assert isinstance(batch, int | float)
    assert isinstance(momentum, int | float)
    if batch <= 0 or not 0 <= momentum < 1:
        return None
    return of_settings(float(rate), float(batch), train.rows.total, float(momentum))
