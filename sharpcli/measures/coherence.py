"""Whether gradients agree: those of examples with one another, that of train with that of test."""

from __future__ import annotations

import math
from typing import Any

from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import SamplingStatus
from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.context import Context
from sharpcli.measures.noise import measured_noise, squared_gradient

__all__ = ["gradient_coherence"]


def gradient_coherence(context: Context) -> dict[str, Any]:
    """|G|²/E|gᵢ|² over examples, and the agreement of the gradients of train and test.

    `examples` is 1 if all examples have the same gradient, and 1/N if those of N are orthogonal; N
    times it is the m-coherence, how many examples one step helps. E|gᵢ|² = |G|² + tr Σ, estimated
    as in `noise-scale`. `cosine` and `inner` are those of the gradients of the training and the
    test loss, if the task has test data: a step of η along the first changes the second loss by
    −η·inner. At a minimum of the training loss both are noise.

    Cost: a gradient of each example that is looked at, and one of the other split.
    Source: Chatterjee & Zielinski 2020 (m-coherence).
    """
    noise = measured_noise(context)
    square = squared_gradient(context, noise)
    sampled = context.objective.rows.sampled
    whole = square.value + noise.trace
    value = square.value / whole if whole else 0.0
    error = math.hypot(
        noise.trace * square.error,
        square.value * (math.inf if noise.error is None else noise.error),
    ) / (whole**2 or 1.0)
    known = error if math.isfinite(error) else None
    coherence = Scalar(
        value,
        known or None,
        "standard_error" if known else None,
        sampling_error=known if sampled else None,
        sampling_status=square.unreliable,
    )
    numbers: dict[str, Any] = {"examples": coherence, "m": _times(coherence, context)}
    if {"train", "test"} <= set(context.splits):
        numbers |= _of_splits(context)
    return {"gradient_coherence": numbers}


def _times(coherence: Scalar, context: Context) -> Scalar:
    """The m-coherence of all examples of the split."""
    count = context.objective.rows.total
    scaled = [
        None if each is None else each * count
        for each in (coherence.value, coherence.error, coherence.sampling_error)
    ]
    return Scalar(
        scaled[0],
        scaled[1],
        coherence.error_kind,
        sampling_error=scaled[2],
        sampling_status=coherence.sampling_status,
    )


def _of_splits(context: Context) -> dict[str, Any]:
    """Cosine and inner product of the gradients of train and test."""
    gradients = [
        context.value_and_gradient[1]
        if context.splits[name] is context.objective
        else context.splits[name].gradient(context.theta)[1]
        for name in ("train", "test")
    ]
    train, test = gradients
    inner = float(dots(train[None], test[None]))
    sizes = [math.sqrt(float(dots(each[None], each[None]))) for each in gradients]
    sampled = any(each.rows.sampled for each in context.splits.values())
    status = SamplingStatus.UNRELIABLE if sampled else None
    off = float(context.rounding.gradient[1].norm())
    error = off * (sizes[0] + sizes[1])
    product = sizes[0] * sizes[1]
    cosine = inner / product if product else None
    return {
        "cosine": Scalar(
            cosine, error / product if product else None, "rounding", sampling_status=status
        ),
        "inner": Scalar(inner, error, "rounding", sampling_status=status),
    }
