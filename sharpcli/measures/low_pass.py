"""The mean rise of the loss under small normal noise: the loss seen through a low-pass filter."""

from __future__ import annotations

from typing import Any

import torch

from sharpcli.documents.scalars import scalar_fields
from sharpcli.measures.context import Context
from sharpcli.measures.rises import Surroundings, estimated, mean_rise, normal_draws

__all__ = ["low_pass"]


def low_pass(context: Context) -> dict[str, Any]:
    """E L(θ + u) − L(θ) with u ∼ N(0, σ²I): how far smoothing by a Gaussian raises the loss.

    For a quadratic loss it is ½σ² tr H. The draws are independent, and the gradient's part of each,
    whose mean is known to be zero, is subtracted; so at most curvature scatters, and the estimate
    has no bias. σ is the same for every parameter, so rescaling layers changes the value.

    Cost: one forward pass a draw, 100 of them, and one gradient.
    Source: Bisla, Wang & Choromanska 2022 (LPF).
    """
    options = context.settings.options
    sigma, count = options["low_pass_sigma"], options["low_pass_draws"]
    around = Surroundings(context)
    shifts = (sigma * drawn for drawn in normal_draws(context, "low-pass filter", count))
    found = mean_rise(around, context, shifts)
    scalar = estimated(
        found.value,
        found.error,
        found.rounding,
        found.sampled,
        "low_pass_draws",
        wide=context.objective.network.compute == torch.float64,
    )
    return {
        "low_pass": scalar_fields(scalar, sigma=sigma, draws=count, evaluations=found.evaluations)
    }
